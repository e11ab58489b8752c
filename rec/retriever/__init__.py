"""Training of the two-tower retriever: its data, its losses over likes and over logged rounds."""

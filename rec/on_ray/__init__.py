"""What runs on Ray: clusters, training over workers, LightGBM, item neighbours."""

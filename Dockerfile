# What the pods of raycluster.yaml and rayservice.yaml run: docker build -t REGISTRY/tandem:0.1.0 .
# A node with a GPU: --build-arg VARIANT=gpu, and the tag of it for its worker group.
ARG VARIANT=cpu
FROM rayproject/ray:2.60.0-py311-${VARIANT}
ARG VARIANT
WORKDIR /home/ray/tandem
COPY --chown=ray:users pyproject.toml constraints.txt README.md LICENSE ./
# Dependencies change seldom, and have a layer of their own. PyPI's torch is for CUDA, gigabytes larger than without.
RUN if [ "$VARIANT" = cpu ]; then \
      pip install --no-cache-dir "$(grep '^torch==' constraints.txt)" --index-url https://download.pytorch.org/whl/cpu; \
    fi \
    && mkdir rec rl serve tune && touch rec/__init__.py rl/__init__.py serve/__init__.py tune/__init__.py \
    && pip install --no-cache-dir -c constraints.txt . && pip uninstall --yes tandem-rec
COPY --chown=ray:users rec rec
COPY --chown=ray:users rl rl
COPY --chown=ray:users serve serve
COPY --chown=ray:users tune tune
RUN pip install --no-cache-dir --no-deps . && tandem --help

# One image for every role; the subcommand is the role.
#
#   docker build --tag trunkline:dev .                        the product
#   docker build --tag trunkline-demo:dev --target demo .     a registry with slow tools, to try failures on
#
# Stages: `plan` keeps what decides about dependencies, `build` compiles them (a layer that is used again until a manifest or the
# lock file changes) and then the product. The last stages hold programs and nothing else: no shell, no package manager.
#
# BINARY=prebuilt takes a context that compose/image/rootfs has filled from programs of this machine, where the builder's image
# cannot be had.
# The compiler is the one of this image: rust-toolchain.toml is not sent to it, for which it would fetch the newest one.
ARG BUILDER=rust:1.95-bookworm
ARG BINARY=build

FROM ${BUILDER} AS plan
WORKDIR /source
COPY . .
RUN ./compose/image/plan /plan

FROM ${BUILDER} AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends protobuf-compiler libprotobuf-dev ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
ARG PROFILE=dist
# The same files give the same layer, whatever else has changed in the sources.
COPY --from=plan /plan .
RUN cargo build --locked --profile ${PROFILE} -p trunkline -p ledger-registry
COPY . .
# Files of the plan are younger than the sources they stand for.
RUN find . -name '*.rs' -not -path './target/*' -exec touch {} + \
    && cargo build --locked --profile ${PROFILE} -p trunkline -p ledger-registry \
    && ./compose/image/rootfs "target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")" /

# The same directories, made elsewhere.
FROM scratch AS prebuilt
COPY . /

FROM ${BINARY} AS binary

FROM scratch AS demo
LABEL org.opencontainers.image.title="Trunkline demo registry" \
      org.opencontainers.image.description="Tools that are slow, count and ask, for trying failures on" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=binary /demo /
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 7204
ENTRYPOINT ["ledger-registry"]

FROM scratch AS trunkline
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Trunkline" \
      org.opencontainers.image.description="The Model Context Protocol at scale: gateway, session nodes and registries in one binary" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=binary /rootfs /
# What processes write to, if anything: keys and samples of `up`, and certificates. All else may be read-only.
COPY --from=binary --chown=65532:65532 /owned /
# The health check asks the admin listener here; what a file says about it would be overruled, so change it by environment, too.
ENV PATH=/usr/local/bin \
    TRUNKLINE_DATA=/data \
    TRUNKLINE_ADMIN__LISTEN=127.0.0.1:9090
USER 65532:65532
WORKDIR /data
# Gateway, session nodes, the three registries, metrics and health.
EXPOSE 8080 7101 7201 7202 7203 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=2s --timeout=4s --start-period=20s --retries=3 CMD ["trunkline", "health"]
ENTRYPOINT ["trunkline"]
CMD ["--help"]

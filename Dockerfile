# syntax=docker/dockerfile:1

# The dependencies have native code, in wheels: pip takes those of the target's platform on the
# machine that builds, so that nothing is compiled or emulated.
FROM --platform=$BUILDPLATFORM python:3.13-slim AS modules
RUN python -m venv /venv
COPY pyproject.toml README.md LICENSE /source/
COPY src /source/src
RUN --mount=type=cache,target=/root/.cache/pip \
    /venv/bin/pip wheel --quiet --no-deps --wheel-dir /wheel /source
ARG TARGETARCH
RUN --mount=type=cache,target=/root/.cache/pip \
    case $TARGETARCH in amd64) machine=x86_64 ;; arm64) machine=aarch64 ;; esac \
 && /venv/bin/pip install --quiet --no-compile --target /modules \
      --python-version 3.13 --implementation cp --only-binary :all: \
      --platform "manylinux_2_28_$machine" --platform "manylinux_2_17_$machine" /wheel/*.whl \
 && mv /modules/bin /programs && sed -i '1s|.*|#!/usr/bin/python3|' /programs/* \
 && python -m compileall -q --invalidation-mode unchecked-hash /modules

# What builds need besides: a runtime, git, programs that map ids and mount, emulators.
FROM debian:13-slim AS runtime
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates crun git libcap2-bin mount python3 qemu-user-static uidmap util-linux \
 && rm -rf /var/lib/apt/lists/*

# Builds run as an ordinary user (docs/kubernetes.md says what a container must allow). The
# capabilities instead of setuid are for containers without CAP_SYS_ADMIN. The subordinate ids are
# all but root's that a pod has in a user namespace of its own: 65534, nobody, is the highest id
# in builds then.
FROM runtime
RUN chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap \
 && setcap cap_setuid=ep /usr/bin/newuidmap && setcap cap_setgid=ep /usr/bin/newgidmap \
 && echo shipline:x:1000:1000::/home/shipline:/bin/sh >> /etc/passwd \
 && echo shipline:x:1000: >> /etc/group \
 && printf 'shipline:%s\n' 1:999 1001:64535 | tee /etc/subuid > /etc/subgid \
 && mkdir -p /home/shipline /var/lib/shipline \
 && chown 1000:1000 /home/shipline /var/lib/shipline
COPY --link --from=modules /modules /usr/local/lib/python3.13/dist-packages
COPY --link --from=modules /programs/shipline /programs/docker-credential-shipline /usr/local/bin/
ENV HOME=/home/shipline SHIPLINE_HOME=/var/lib/shipline
# Overlay mounts cannot lie on the overlay of a container.
VOLUME /var/lib/shipline
USER 1000:1000
WORKDIR /home/shipline
ENTRYPOINT ["shipline"]
CMD ["--help"]

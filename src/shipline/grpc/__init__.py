"""gRPC and Protocol Buffers, as the APIs of BuildKit and containerd need them."""

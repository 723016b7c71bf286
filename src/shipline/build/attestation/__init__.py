"""What a build states about its images, and the manifests that keep it."""

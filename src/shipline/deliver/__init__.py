"""Handing over: to CI systems, to GitOps repositories, to clusters."""

"""Admission of images: which may be pushed, pulled, deleted, and which tags are retained."""

from shipline.server.admission.protocol import Admission, AdmitAll

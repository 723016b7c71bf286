"""Rules about what may come in, stay and go out."""

from shipline.server.admission.protocol import Admission, AdmitAll

__all__ = ["Admission", "AdmitAll"]

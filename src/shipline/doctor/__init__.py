"""What this machine, the registries and a project have, and what they lack, each with its cure."""

from shipline.doctor.diagnosis import Condition, Diagnosis, Examination, Remark, diagnose
from shipline.doctor.machine import examine_machine
from shipline.doctor.project import examine_project, registries_of
from shipline.doctor.registries import examine_registry

"""Students as files that other runtimes load with no change to them.

The one idea: a virtual token becomes a special token of the vocabulary, with its own embedding row, and the chat template puts it
where training put it; what is learned inside the model goes beside it, in the runtime's own adapter file. An exporter is one file
here with `@EXPORTERS.register`: it checks, writes into the folder that it is given, and says how to run what it wrote. Whether
that came out as the student is measured in `recipes`, never assumed here.
Must not import evaluation, training or costs.
"""

from softguard.export.protocol import EXPORTERS, Exported, Exporter, StudentModel, adapter_kind, check_carried, new_names
from softguard.registry import discover

discover(__name__, list(__path__))

__all__ = ["EXPORTERS", "Exported", "Exporter", "StudentModel", "adapter_kind", "check_carried", "new_names"]

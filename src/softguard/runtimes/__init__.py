"""Programs and libraries that run exported models as their users will, none of them changed by us.

Each is one file with a class that is a `Runtime`: verification asks all of them the same questions. Our own models are no
business of this room. `server_client` is how any server is asked, a guard's and the teacher's too.
"""

from softguard.runtimes.embeds_script import EmbedsScript
from softguard.runtimes.llama_server import LlamaServer, find_llama_server
from softguard.runtimes.onnx_script import OnnxScript
from softguard.runtimes.protocol import Runtime, RuntimeReply, TimedAnswer, TimedRuntime
from softguard.runtimes.transformers_folder import TransformersFolder

__all__ = [
    "EmbedsScript",
    "LlamaServer",
    "OnnxScript",
    "Runtime",
    "RuntimeReply",
    "TimedAnswer",
    "TimedRuntime",
    "TransformersFolder",
    "find_llama_server",
]

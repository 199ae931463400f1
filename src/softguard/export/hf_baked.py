"""`hf-baked`: a Hugging Face folder with the virtual tokens in its vocabulary: an ordinary model to whoever reads such."""

from pathlib import Path

from softguard.export.baked import baked_network, baked_tokenizer, check_bakeable, first_baked_id
from softguard.export.protocol import EXPORTERS, Exported, StudentModel, transformers_tolerance
from softguard.export.refusal_entry import BakedRows
from softguard.runtimes import TransformersFolder


@EXPORTERS.register("hf-baked")
class HFBakedExporter:
    """Baked vocabulary in safetensors, tokenizer and template."""

    description = "a Hugging Face folder for transformers, vLLM, MLX and converters"
    carries = ("soft_prompt",)
    bakes_head = True

    def check(self, student: StudentModel) -> None:
        """See `Exporter.check`."""
        check_bakeable(student)

    def write(self, student: StudentModel, rows: BakedRows | None, folder: Path) -> Exported:
        """See `Exporter.write`."""
        assert rows is not None
        lm = student.lm
        baked_network(student, rows).save_pretrained(folder)
        baked_tokenizer(student, rows).save_pretrained(folder)
        return Exported(
            command="vllm serve .    # or transformers: AutoModelForCausalLM.from_pretrained('.')",
            facts={
                "file_bytes": sum(p.stat().st_size for p in folder.iterdir()),
                "dtype": str(lm.dtype).removeprefix("torch."),
                "head_was_tied": False,
                "weights": "the base's as the student was trained against, so a quantised base comes out dequantised",
            },
            notes=("Checked in transformers. vLLM, MLX and converters were not run.",),
            first_virtual_id=first_baked_id(student),
            start=lambda at: TransformersFolder(at, lm.dtype),
            tolerance_nats=transformers_tolerance(lm.dtype),
        )

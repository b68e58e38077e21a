"""TensorRT plans for an export folder, each with its verdict. Needs a GPU and TensorRT; no torch.

Takes the folder, so that a machine that only serves can do it as well; gives rows, and writes trt/FIDELITY.md.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from simclr.artifacts import ModelFile
from simclr.cpus import available_cpus
from simclr.errors import ArtifactError
from simclr.export.fidelity import judge
from simclr.export.measure import embed_all, over_batch_sizes
from simclr.export.pictures import gallery_images
from simclr.export.report import REPORT_FILE, Row, to_markdown
from simclr.runtime.backends import RUNS, choose, gpu_count
from simclr.runtime.model_files import FILE_OF, open_folder
from simclr.runtime.plans import PLAN_FOLDER, build_plan, import_tensorrt, keep_verdict, plan_path
from simclr.runtime.probe import check_probe, read_probe
from simclr.runtime.starting import why_not
from simclr.runtime.tensorrt import open_trt

Note = Callable[[str], None]
_BATCH = 32


def build_plans(
    path: Path,
    precisions: Sequence[str] = (),
    *,
    check: str | None = None,
    run: Path | None = None,
    accept: bool = False,
    note: Note = lambda line: None,
) -> tuple[Row, ...]:
    """Build a plan of each usable precision that TensorRT runs, or of those named; a row of fp32 as ONNX comes first.

    `check` and `run`: images for the verdict, as for an export. Raises MissingExtra or ConfigError (no TensorRT, no GPU),
    TensorRTError, ArtifactError.
    """
    import_tensorrt()  # before anything takes minutes
    folder, info = open_folder(path)
    there = {file.precision: file for file in info.files.values()}
    wanted = [
        name for name in precisions or there if name in RUNS["trt"] and name in there and there[name].usable
    ]
    if not wanted:
        raise ArtifactError(
            f"{folder}: no usable file that TensorRT runs. Export one: simclr export RUN --precision fp16"
        )
    probe, vectors = read_probe(folder, info)
    own = gallery_images(check, run, info.encoder.recipe, note=note)
    images = own if len(own) else probe
    backend = (
        "ort-cpu" if not gpu_count() or why_not("ort-cuda") else "ort-cuda"
    )  # no plan is judged by a plan
    fp32 = choose(folder, info, backend=backend, precision="fp32", threads=available_cpus(), note=note).engine
    check_probe(fp32, folder, info, "fp32")
    reference = embed_all(fp32, images, batch=_BATCH)
    rows = [
        Row(FILE_OF["fp32"], there["fp32"], over_batch_sizes(fp32, probe, max_batch=info.max_batch).speed)
    ]
    for precision in wanted:
        note(f"building a plan of {FILE_OF[precision]}, which takes minutes")
        _, built = build_plan(folder, info, precision)
        engine = open_trt(folder, info, precision, note=note)
        batched = over_batch_sizes(engine, probe, max_batch=info.max_batch)
        fidelity = judge(
            precision,
            embed_all(engine, images, batch=_BATCH),
            reference,
            neighbours=len(own) > 0,
            batches=batched.batches,
            batch_cosine=batched.cosine,
            measured_on=engine.provider,
        )
        plan = keep_verdict(folder, built, fidelity, accepted=accept and not fidelity.passed)
        file = ModelFile(
            sha256=plan.sha256,
            size=plan.size,
            precision=precision,
            opset=there[precision].opset,
            probe_cosine=float((engine(probe) * vectors).sum(1).min()),
            fidelity=fidelity,
            accepted=plan.accepted,
        )
        rows.append(Row(str(plan_path(folder, precision).relative_to(folder)), file, batched.speed))
    (folder / PLAN_FOLDER / REPORT_FILE).write_text(to_markdown(info.encoder, rows), encoding="utf-8")
    return tuple(rows)

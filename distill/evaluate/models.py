"""The models of a run that are scored or served, and the engines that they need."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.session import Device, Session
from cluster.vllm_args import parallel_arguments
from distill.config.recipe import Recipe
from distill.config.serve import ServeSection
from distill.core.run_dir import RunDir
from distill.core.schema import Style, content_hash
from distill.models.resolve import ResolvedModel
from distill.train.cells import Cell, all_cells
from serve.api.thinking import Speculation
from serve.config import Endpoint, EngineSpec, ServeConfig, group_engines


@dataclass(frozen=True)
class Evaluated:
    """A model to be scored or served: a student's untouched self, or one of its cells."""

    name: str
    source: str
    adapter: str | None
    key: str
    """Content hash of the weights' origin."""
    mode: str = ""
    """The mode that it is asked in; empty where it knows none."""
    line: str = ""
    """What asks for the mode."""
    helper: Speculation | None = None
    """Who writes its hard steps."""

    @property
    def served_name(self) -> str:
        """The model's name at the endpoint, the same in every mode, helped or not."""
        alone = self.name.removesuffix(f"+{self.helper.model}") if self.helper else self.name
        return alone.removesuffix(mode_name("", self.mode))

    @property
    def endpoint(self) -> Endpoint:
        """How Serve is told of it."""
        return Endpoint(name=self.served_name, source=self.source, adapter=self.adapter)


def evaluated_models(recipe: Recipe, models: Mapping[str, ResolvedModel], run_dir: RunDir) -> list[Evaluated]:
    """Untouched students first, then their cells, once in each mode; an adapter rides on the untouched weights."""
    untouched = [
        Evaluated(student.name, models[student.model].place, None, models[student.model].identity)
        for student in recipe.students
    ]
    modes = {mix.name: mix.modes for mix in recipe.mixes}
    trained = [(_trained(cell, models, run_dir), modes.get(cell.mix, {})) for cell in all_cells(recipe)]
    return untouched + [one for model, lines in trained for one in _in_modes(model, lines)]


def _in_modes(model: Evaluated, lines: Mapping[Style, str]) -> list[Evaluated]:
    found = [replace(model, name=mode_name(model.name, mode), mode=mode, line=line) for mode, line in lines.items()]
    return found or [model]


def mode_name(name: str, mode: str) -> str:
    """What a model is called where it is scored in one of its modes: `student@mix:long`."""
    return f"{name}:{mode}" if mode else name


def _trained(cell: Cell, models: Mapping[str, ResolvedModel], run_dir: RunDir) -> Evaluated:
    manifest = run_dir.read_manifest("train", cell.name)
    key = manifest.key if manifest else ""
    if cell.student.tune.kind == "lora" and cell.merge is None:
        adapter = run_dir.place("train", cell.name, "adapter", version=key)
        return Evaluated(cell.name, models[cell.student.model].place, adapter, key)
    return Evaluated(cell.name, run_dir.place("train", cell.name, "model", version=key), None, key)


def helped_models(recipe: Recipe, models: Sequence[Evaluated]) -> list[Evaluated]:
    """The arms of speculative thinking: a student under the name `student@mix+helper`."""
    by_name = {model.name: model for model in models}
    return [
        replace(
            by_name[arm.student],
            name=arm.student + arm.suffix,
            key=content_hash([by_name[arm.student].key, helper_of(arm.helper, models).key]),
            helper=arm.helper,
        )
        for arm in recipe.evaluate.speculative
    ]


def helper_of(option: Speculation, models: Sequence[Evaluated]) -> Evaluated:
    """The model that helps."""
    return next(model for model in models if model.served_name == option.model)


def same_weights(models: Iterable[Evaluated]) -> dict[str, str]:
    """model -> the first model with the very same weights: one base under two students is loaded and scored once."""
    first: dict[tuple[str, str | None, str, Speculation | None], str] = {}
    return {
        model.name: first.setdefault((model.source, model.adapter, model.line, model.helper), model.name)
        for model in models
    }


def waves(models: Sequence[Evaluated], max_engines: int) -> list[list[Evaluated]]:
    """Models in groups whose engines may be up together; an engine's models are never split."""
    specs: Sequence[EngineSpec] = group_engines(endpoints(models)) if models else ()
    by_name: dict[str, list[Evaluated]] = defaultdict(list)
    for model in models:
        by_name[model.served_name].append(model)
    return [
        [
            one
            for spec in specs[start : start + max_engines]
            for endpoint in spec.endpoints
            for one in by_name[endpoint.name]
        ]
        for start in range(0, len(specs), max_engines)
    ]


def with_helped(models: Sequence[Evaluated], unhelped: Sequence[Evaluated], max_engines: int) -> list[list[Evaluated]]:
    """The waves of all models: a helped student comes with a wave that has both its engines, else in one of its own."""
    found = waves([model for model in models if model.helper is None], max_engines)
    for model in models:
        if model.helper is None:
            continue
        both = {model.served_name, model.helper.model}
        fitting = [wave for wave in found if both <= {one.served_name for one in wave}]
        if fitting:
            fitting[0].append(model)
        else:
            found.append([model, helper_of(model.helper, unhelped)])
    return found


def endpoints(models: Iterable[Evaluated]) -> list[Endpoint]:
    """The endpoints of models: one for all modes of a student."""
    return list({model.served_name: model.endpoint for model in models}.values())


def engines_at_once(section: ServeSection, session: Session) -> int:
    """Engines that the nodes of the connected cluster can hold now."""
    nodes = session.nodes()
    num_cpus, num_gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return engines_that_fit(section, session.device, num_cpus=num_cpus, num_gpus=num_gpus)


def engines_that_fit(section: ServeSection, device: Device, *, num_cpus: float, num_gpus: float) -> int:
    """Engines that a cluster can hold and still run Ray Data's small tasks, for which a CPU is left; at least one."""
    by_cpu = (num_cpus - 1.0) / section.cpus_per_engine
    per_engine = section.engine.tensor_parallel * section.engine.pipeline_parallel
    by_gpu = num_gpus / per_engine if device == "gpu" else by_cpu
    return max(1, min(section.max_engines, int(min(by_cpu, by_gpu))))


def serve_config(section: ServeSection, device: Device, **address: Any) -> ServeConfig:
    """The recipe's serving settings as the serve package takes them; `address`: host and port."""
    engine = section.engine
    return ServeConfig(
        device=device,
        engine_cpus=section.cpus_per_engine,
        gpu=section.gpu,
        kv_cache_gib=engine.kv_cache_gb,
        max_model_len=engine.max_model_len,
        engine_kwargs=parallel_arguments(engine.tensor_parallel, engine.pipeline_parallel) | engine.kwargs,
        **address,
    )

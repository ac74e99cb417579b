"""The models of a run that are scored or served, and the engines that they need."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.placement import Resources
from cluster.session import Device, Session
from cluster.vllm_args import engine_threads, parallel_arguments, weight_bytes
from distill.config.eval_arms import AnsweringPlan
from distill.config.mix import Mix, Mode
from distill.config.recipe import Recipe
from distill.config.serve import ServeSection
from distill.config.teachers import ChatFormat
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, Training
from distill.core.saved_files import ADAPTER, MODEL, saved_of, trained_address, weight_hashes
from distill.core.schema import content_hash
from distill.mix.reasoning_marks import unmarked_arms
from distill.models.adapters import unmatched_modules
from distill.models.conversation import Conversation, conversation, prompt_start
from distill.models.folder import tensor_shapes
from distill.models.resolve import ResolvedModel
from distill.train.cells import Cell, all_cells
from serve.api.reasoning_parser import Delimiters, opening_delimiter
from serve.config import Endpoint, EngineSpec, ServeConfig, group_engines


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to be scored or served: an untouched student, or one that was trained or merged."""

    name: str
    source: str
    adapter: str | None
    key: str
    """Content hash of the weights' origin."""
    mode: str = ""
    """The mode that it is scored in; empty where it has none."""
    asked_as: Mode | None = field(default=None, hash=False)
    """How the mode is asked for."""
    openings: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Mode -> the text that begins its completions, of a student that writes the mode itself."""
    tokenizer: str = ""
    """Folder or address of its tokenizer, that of the untouched model; empty where another's endpoint serves it."""
    shared_engine: str = ""
    """Label of the engine in which it takes turns with others of its shapes; empty: it has one of its own."""
    is_marked: bool = True
    """Whether it may open reasoning between delimiters; not a student that was taught without any."""
    plan: AnsweringPlan | None = None
    """The way in which it is made to answer; None: as it answers by itself."""

    @property
    def served_name(self) -> str:
        """The model's name at the endpoint, the same in every mode and however it is made to answer."""
        alone = self.name.removesuffix(self.plan.suffix) if self.plan else self.name
        return alone.removesuffix(mode_name("", self.mode))

    @property
    def opening(self) -> str:
        """What begins its completions in the mode that it is scored in; empty where it is asked for otherwise, or the
        student chooses."""
        return self.openings.get(self.mode, "")

    @property
    def partner(self) -> str:
        """Served name of the other model that writes a part of its answers; empty where there is none."""
        return self.plan.partner if self.plan else ""

    @property
    def endpoint(self) -> Endpoint:
        """The model as the serve package takes it."""
        return Endpoint(
            name=self.served_name,
            source=self.source,
            adapter=self.adapter,
            shared_engine=self.shared_engine,
            mode_openings=dict(self.openings),
        )


def evaluated_models(recipe: Recipe, models: Mapping[str, ResolvedModel], run_dir: RunDir) -> list[EvaluatedModel]:
    """Untouched students, then the trained ones, each once per mode; an adapter uses the untouched weights."""
    untouched = [
        EvaluatedModel(student.name, address, None, models[student.model].identity, tokenizer=address)
        for student in recipe.students
        for address in [models[student.model].address]
    ]
    mixes, unmarked = {mix.name: mix for mix in recipe.mixes}, unmarked_arms(recipe, run_dir.arm_entries())
    trained = [
        (replace(_trained(cell, models, run_dir), is_marked=cell.mix not in unmarked), mixes.get(cell.mix))
        for cell in all_cells(recipe)
    ]
    return untouched + [one for model, mix in trained for one in _in_modes(model, mix)]


def _in_modes(model: EvaluatedModel, mix: Mix | None) -> list[EvaluatedModel]:
    if mix is None or not mix.modes:
        return [model]
    openings = {str(style): opening for style, opening in mix.openings.items()}
    return [
        replace(model, name=mode_name(model.name, style), mode=style, asked_as=mode, openings=openings)
        for style, mode in mix.prompt_modes.items()
    ]


def mode_name(name: str, mode: str) -> str:
    """Name of a model that is scored in one of its modes: `student@mix:long`."""
    return f"{name}:{mode}" if mode else name


def _trained(cell: Cell, models: Mapping[str, ResolvedModel], run_dir: RunDir) -> EvaluatedModel:
    manifest = run_dir.read_manifest(*Training(cell.name).folder)
    base = models[cell.student.model].address
    if cell.has_adapter and is_applied(run_dir, cell, base):
        adapter = trained_address(run_dir, cell.name, ADAPTER, manifest)
        return EvaluatedModel(cell.name, base, adapter, weights_key(manifest, ADAPTER), tokenizer=base)
    merged = trained_address(run_dir, cell.name, MODEL, manifest)
    whole = weights_key(manifest, MODEL)
    # Not under the adapter's key: with it, an engine would have scored the untouched student.
    whole = content_hash("merged", whole) if cell.has_adapter else whole
    return EvaluatedModel(cell.name, merged, None, whole, tokenizer=base)


def weights_key(manifest: Manifest | None, kind: str) -> str:
    """Hash of what decides a cell's weights, and of the weights themselves where their hashes were kept: trained again
    to other weights, it is scored again. Empty where it is not trained."""
    key = manifest.key if manifest else ""
    hashes = weight_hashes(saved_of(manifest, kind))
    return content_hash("weights", key, sorted(hashes.items())) if hashes else key


def is_applied(run_dir: RunDir, cell: Cell, base: str) -> bool:
    """Whether an engine that loads `base` applies all of a cell's adapter; also where it is not trained yet.

    Otherwise the student is asked as its merged folder, an engine of its own.
    """
    if not run_dir.exists(*Training(cell.name).adapter):
        return True
    adapter = tensor_shapes(run_dir.address_of(*Training(cell.name).adapter))
    return not unmatched_modules(adapter, tensor_shapes(base))


def same_weights(models: Iterable[EvaluatedModel]) -> dict[str, str]:
    """model -> the first model with the same weights: one base under two students is loaded and scored once."""
    first: dict[tuple[Any, ...], str] = {}
    return {
        model.name: first.setdefault(
            (model.source, model.adapter, str(model.asked_as), model.opening, model.plan), model.name
        )
        for model in models
    }


def waves(models: Sequence[EvaluatedModel], max_engines: int) -> list[list[EvaluatedModel]]:
    """Models in groups whose engines run at the same time; an engine's models are never split."""
    specs: Sequence[EngineSpec] = group_engines(endpoints(models)) if models else ()
    by_name: dict[str, list[EvaluatedModel]] = defaultdict(list)
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


def with_partners(
    models: Sequence[EvaluatedModel], plain: Sequence[EvaluatedModel], max_engines: int
) -> list[list[EvaluatedModel]]:
    """The waves of all models: one with a partner joins a wave with both engines, else it gets a wave of its own.

    `plain`: all models that can be a partner.
    """
    found = waves([model for model in models if not model.partner], max_engines)
    for model in models:
        if not model.partner:
            continue
        both = {model.served_name, model.partner}
        fitting = [wave for wave in found if both <= {one.served_name for one in wave}]
        if fitting:
            fitting[0].append(model)
        else:
            found.append([model, partner_of(model, plain)])
    return found


def partner_of(model: EvaluatedModel, plain: Sequence[EvaluatedModel]) -> EvaluatedModel:
    """The other model that writes a part of a model's answers."""
    return next(one for one in plain if one.served_name == model.partner)


def writing_together(models: Iterable[EvaluatedModel]) -> set[str]:
    """Served names of the models that have a partner, and of the partners: both write parts of one answer."""
    return {name for model in models if model.partner for name in (model.served_name, model.partner)}


def endpoints(models: Iterable[EvaluatedModel]) -> list[Endpoint]:
    """The endpoints of models: one for all modes of a student."""
    return list({model.served_name: model.endpoint for model in models}.values())


def asked_endpoints(models: Sequence[EvaluatedModel], chat: ChatFormat, reasoning_end: str) -> list[Endpoint]:
    """The endpoints with what their chat templates need: end tokens, options, a fixed date, delimiters. Reads
    tokenizers. The reasoning stays in the text, where the verifier looks at it."""
    folders = {model.served_name: model.tokenizer for model in models}
    marked = {model.served_name for model in models if model.is_marked}
    return [
        _asked(endpoint, conversation(folder), chat).model_copy(
            update={
                "reasoning": endpoint_delimiters(
                    folder,
                    chat,
                    reasoning_end,
                    list(endpoint.mode_openings.values()),
                    is_marked=endpoint.name in marked,
                ),
                "reasoning_in_content": True,
            }
        )
        for endpoint in endpoints(models)
        for folder in [folders[endpoint.name]]
    ]


def endpoint_delimiters(
    tokenizer: str, chat: ChatFormat, end: str, openings: Sequence[str] = (), *, is_marked: bool = True
) -> Delimiters | None:
    """The delimiters of a model's reasoning in a format; None where nothing ends it.

    What its prompts have opened any student was taught to close, also one whose traces do not reason.

    Args:
        tokenizer: its folder or address.
        chat: how the model is asked.
        end: what ends the reasoning.
        openings: lines that may stand before it.
        is_marked: whether the model may open it.
    """
    if not end:
        return None
    is_open = prompt_start(tokenizer, chat).opened is not None
    if not (is_open or is_marked):
        return None
    return Delimiters(start=opening_delimiter(end), end=end, is_open=is_open, openings=tuple(openings))


def _asked(endpoint: Endpoint, found: Conversation, chat: ChatFormat) -> Endpoint:
    return endpoint.model_copy(
        update={
            "stop_token_ids": found.stop_token_ids,
            "opens_reasoning": found.opens_reasoning,
            "keeps_special_tokens": found.keeps_special_tokens,
            "chat_template": found.chat_template,
            "template_options": chat.template_options,
            "system_as": chat.system_as,
        }
    )


def engines_at_once(section: ServeSection, session: Session) -> int:
    """Engines that fit the present nodes of the connected cluster."""
    nodes = session.nodes()
    num_cpus, num_gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return engines_that_fit(section, session.device, num_cpus=num_cpus, num_gpus=num_gpus)


def engines_that_fit(section: ServeSection, device: Device, *, num_cpus: float, num_gpus: float) -> int:
    """Engines that fit a cluster, with one CPU left for Ray Data's small tasks; at least one."""
    by_cpu = (num_cpus - 1.0) / section.cpus_per_engine
    per_engine = section.engine.num_gpus
    by_gpu = num_gpus / per_engine if device == "gpu" else by_cpu
    return max(1, min(section.max_engines, int(min(by_cpu, by_gpu))))


def engines_at_work(num_engines: int, device: Device, nodes: Sequence[Resources], sources: Iterable[str]) -> int:
    """How many of the engines that are up compute at the same time: on CPUs as many as take no core from each other.

    `sources`: of their weights.
    """
    if device == "gpu":
        return num_engines
    largest = max(map(weight_bytes, sources), default=0)
    cores = [max(1, int(node.cpus)) for node in nodes]
    threads = [engine_threads(count, is_served=True, served_bytes=largest) for count in cores]
    return min(num_engines, sum(count // taken for count, taken in zip(cores, threads, strict=True)))


def serve_config(section: ServeSection, device: Device, **settings: Any) -> ServeConfig:
    """The recipe's engine as the serve package takes it; `settings`: host, port, and what `distill serve` adds."""
    engine = section.engine
    return ServeConfig(
        device=device,
        kv_cache_gib=engine.kv_cache_gib,
        max_model_len=engine.max_model_len,
        engine_kwargs=parallel_arguments(engine.tensor_parallel, engine.pipeline_parallel) | engine.kwargs,
        **({"cpus_per_engine": section.cpus_per_engine, "gpu": section.gpu} | settings),
    )

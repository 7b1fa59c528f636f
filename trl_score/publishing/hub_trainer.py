"""
What both trainers add to the Hub side of a Trainer: the record and the card beside every model that is saved, and a
push that publishes what others need and nothing else.
"""

import logging
import re
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from huggingface_hub import CommitInfo, HfApi, ModelCard
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from trl_score.publishing.card import CARD_FILE, write_card
from trl_score.publishing.files import published_files, published_name
from trl_score.publishing.push import PAUSES_S, push_checkpoint, push_run, repeat_command, try_again
from trl_score.publishing.record import (
    dataset_name,
    describe_start,
    library_versions,
    numbered_deviations,
    published_arguments,
    write_record,
)

logger = logging.getLogger(__name__)


class HubTrainer(Trainer):
    """
    A Trainer whose folder tells all that is published of it.

    Changed: `save_model` writes the settings of the method, generation settings, `training_config.json` and the card
    beside the model. `push_to_hub`, `push_to_hub=True` and `hub_strategy` mean what they mean in Transformers, but a
    push takes the files that `published_files` lets through, from the output folder, once all of them lie there; it is
    tried again where the connection is lost; and where it fails for good, the error says how to repeat it. (There is no
    hook for the choice of files: Transformers uploads the whole folder, `training_args.bin` too.)
    """

    push_in_progress: PushInProgress | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._card_facts: dict[str, Any] = {"tags": sorted(self.card_tags), "links": [], "dataset": None}
        # Read now: the folder that training began from may be the one that is written into.
        self._start = describe_start(self.model.config.name_or_path)

    # What `trl_compat` knows

    @property
    def card_tags(self) -> list[str]:
        """`list[str]`: Tags of the model card."""
        raise NotImplementedError

    @property
    def method_name(self) -> str:
        """`str`: What the method is called, in the model card too."""
        raise NotImplementedError

    @property
    def paper(self) -> dict[str, str]:
        """`dict`: `title`, `id` and `citation` of the method's paper."""
        raise NotImplementedError

    def wait_for_pushes(self) -> None:
        """Waits for the pushes in the background, and reports on them."""
        raise NotImplementedError

    # What lies beside a saved model

    def tell_adapter(self, adapter: str) -> None:
        """
        Tells where the adapter comes from that is trained further, which a [`~peft.PeftModel`] does not know.

        Args:
            adapter (`str`):
                Its folder, or its name on the Hub. It goes into the record and onto the card.
        """
        self._start = describe_start(self.model.config.name_or_path, adapter)

    def save_settings(self, folder: Path) -> None:
        """Writes what the method needs beside a model just saved. On the process that saves."""

    def describe_rewards(self) -> dict[str, Any]:
        """Gives `reward_funcs` and `reward_weights` of the record, where there are any."""
        return {}

    def training_record(self) -> dict[str, Any]:
        """
        Describes the training as it stands.

        Returns:
            `dict[str, Any]`: The content of `training_config.json`.
        """
        config, dataset = self.model.config, self.train_dataset
        in_files = dataset if isinstance(dataset, Dataset) else None
        downloaded = None if in_files is None else dataset_name(file["filename"] for file in in_files.cache_files)
        return {
            "trainer": type(self).__name__,
            "method": self.method_name,
            "stage": self.args.stage,
            **self._start,
            "base_commit": vars(config).get("_commit_hash"),
            "num_rows": None if in_files is None else len(in_files),
            **self.describe_rewards(),
            "step": self.state.global_step,
            "max_steps": self.state.max_steps,
            "num_processes": self.args.world_size,
            "arguments": published_arguments(self.args),
            "deviations": numbered_deviations(type(self)),
            "paper": self.paper,
            "repo_id": self.hub_model_id or self.args.hub_model_id,
            "versions": library_versions(),
            **self._card_facts,
            "dataset": self._card_facts["dataset"] or downloaded,
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model as [`~transformers.Trainer.save_model`], and beside it all that its card is made from."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            self.save_settings(folder)
            model = self.accelerator.unwrap_model(self.model)
            if is_peft_model(model):  # PEFT saves the adapter alone
                # As text: `save_pretrained` would refuse settings of a base model that contradict each other.
                settings = model.get_base_model().generation_config.to_json_string()
                (folder / "generation_config.json").write_text(settings, encoding="utf-8")
            self._describe(folder)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes TRL's draft of a card, and from what it says our own card, as [`~trl.GRPOTrainer`] does."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        super().create_model_card(model_name, dataset_name, tags)
        draft = ModelCard.load(folder / CARD_FILE)
        self._card_facts = {
            "tags": sorted(draft.data.tags),
            "links": re.findall(r"^\[<img .*", draft.text, re.MULTILINE),
            "dataset": published_name(dataset_name) or self._card_facts["dataset"],
        }
        self._describe(folder)

    def _describe(self, folder: Path) -> None:
        write_record(folder, self.training_record())
        write_card(folder, self.hub_model_id, with_results=False)

    # Pushes

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository, where `push_to_hub` is set before training."""
        make = super().init_hf_repo
        command = repeat_command(Path(self.args.output_dir), self.args.hub_model_id or "NAME")
        advice = f"Nothing was trained yet. Or train without `push_to_hub`, and push then: {command}"
        try_again(lambda: make(token, private), PAUSES_S, "Making the repository", advice)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> "CommitInfo | Future[CommitInfo] | None":
        """
        Saves the model, then pushes what others need of the output folder.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                The commit's message.
            blocking (`bool`, *optional*, defaults to `True`):
                Whether to wait.
            token (`str`, *optional*):
                Access token. By default `hub_token`, or the one that is logged in with.
            revision (`str`, *optional*):
                The branch. By default `hub_revision`.
            private (`bool`, *optional*):
                Whether a repository that is made is private. By default `hub_private_repo`.
            **kwargs:
                `base_model`, as in [`~trl_score.publishing.push.push_run`], and arguments of `create_model_card`:
                `model_name`, `dataset_name`, `tags`.

        Returns:
            [`~huggingface_hub.CommitInfo`], or a `Future` of one; `None` on other processes than the first.

        Raises:
            [`~trl_score.publishing.push.PushError`]: If it fails. The model is saved then, and the error says the
                command that repeats the push.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.wait_for_pushes()  # they read the files that are now written
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        options = {
            "base_model": kwargs.pop("base_model", None),
            "token": token or self.args.hub_token,
            "revision": revision or self.args.hub_revision,
            "private": self.args.hub_private_repo if private is None else private,
            "commit_message": commit_message or "End of training",
        }
        tags = kwargs.pop("tags", None) or []
        kwargs["tags"] = [*([tags] if isinstance(tags, str) else tags), *(self.model.model_tags or [])]
        repo_id = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.create_model_card(model_name=kwargs.pop("model_name", repo_id.rpartition("/")[2]), **kwargs)
        if not blocking:
            return HfApi().run_as_future(push_run, self.args.output_dir, repo_id, **options)
        commit = push_run(self.args.output_dir, repo_id, **options)
        self.hub_model_id = commit.repo_url.repo_id
        return commit

    def push_from_checkpoint(self, checkpoint: Path) -> None:
        """
        Pushes a checkpoint in the background, as `hub_strategy` says; one at a time unless `hub_always_push`.

        Args:
            checkpoint (`Path`):
                The checkpoint, just saved.
        """
        running = [] if self.push_in_progress is None or self.push_in_progress.is_done() else self.push_in_progress.jobs
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if running and not self.args.hub_always_push:
            return
        if not running:
            self.report_pushes()
        try:
            files = published_files(checkpoint)
        except (FileNotFoundError, ValueError) as error:  # such as sharded weights; training goes on
            logger.error("%s is not pushed. %s", checkpoint, error)
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # A push reads the output folder, because the checkpoint may be deleted before it is done.
        for file in files:
            target = Path(self.args.output_dir) / file.path
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(file.file, target)
        self.push_in_progress = PushInProgress([*running, *self._start_pushes(checkpoint)])

    def _start_pushes(self, checkpoint: Path) -> "list[Future[CommitInfo]]":
        args, repo_id = self.args, self.hub_model_id
        options = {"token": args.hub_token, "revision": args.hub_revision}
        message = f"Training in progress, step {self.state.global_step}"
        api = HfApi()  # one after the other
        own = {"private": args.hub_private_repo, "with_results": False}
        jobs = [api.run_as_future(push_run, args.output_dir, repo_id, commit_message=message, **own, **options)]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
            message += ", checkpoint"
            jobs.append(
                api.run_as_future(push_checkpoint, checkpoint, repo_id, name, commit_message=message, **options)
            )
        return jobs

    def report_pushes(self) -> None:
        """Tells of pushes in the background that failed. They end no training: its folder holds what they lacked."""
        if self.push_in_progress is not None:
            for job in self.push_in_progress.jobs:
                if (error := job.exception()) is not None:
                    logger.error("A push in the background failed. %s", error)
        self.push_in_progress = None

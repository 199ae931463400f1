"""The real command line in processes of its own, with a cache that borrows the user's models and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from softguard.sources import cache_dir

REDUCED = Path(__file__).with_name("reduced.toml")
SOFTGUARD = Path(sys.executable).with_name("softguard")


def _can_be_interrupted() -> None:
    """Undo an ignored SIGINT, which a shell gives to what it runs in the background and children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class CommandLine:
    """`softguard` with one cache."""

    cache: Path

    @classmethod
    def with_fresh_cache(cls, folder: Path) -> "CommandLine":
        """Return a command line whose models are the user's, fetched where they are absent, and whose teacher cache is empty."""
        folder.mkdir(parents=True)
        for name in ("sources", "dequantised"):
            shared = cache_dir() / name
            shared.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(shared, target_is_directory=True)
        return cls(folder)

    @property
    def environment(self) -> dict[str, str]:
        """This process's, with our cache, one thread, and a terminal of unknown width."""
        kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "SOFTGUARD_DATA")}
        return kept | {"SOFTGUARD_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [str(SOFTGUARD), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False)

    def stop(self, sent: signal.Signals, moment: Callable[[str], object], log: Path, *arguments: object) -> int:
        """Start a command, send it a signal once `moment(stderr so far)` is true, and return its exit code."""
        command = [str(SOFTGUARD), *map(str, arguments)]
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=self.environment, preexec_fn=_can_be_interrupted)
        try:
            while process.poll() is None and not moment(log.read_text()):
                time.sleep(0.003)
            assert process.poll() is None, f"it ended with {process.returncode} before it could be stopped:\n{log.read_text()}"
            process.send_signal(sent)
            return process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class FinishedRun:
    """A run that nothing interrupted, and what `distill` said."""

    path: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def softguard(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The command line with the cache of the finished run."""
    return CommandLine.with_fresh_cache(tmp_path_factory.mktemp("softguard") / "cache")


@pytest.fixture(scope="session")
def finished(softguard: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """One run of the reduced setting, which the tests share and leave as it is."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = softguard.run("distill", "--config", REDUCED, "--out", out)
    assert done.returncode == 0, done.stderr
    return FinishedRun(out, done.stdout, done.stderr)

"""The key of the noise: from the recipe's seed in one process, from a secret on a deployment.

Whoever knows the key can compute the noise and subtract it. In one process the seed is all there
is: results can be repeated to the bit, and protect nobody from who knows the recipe. On a
deployment members know the recipe's seed, so the key comes from the operating system's secure
randomness, once a run (server) or once a node, and stays in a file that only its owner may read. A
resumed run finds it there, and so draws the same noise for the same updates.

Each use has a key of its own: HMAC-SHA256 of the secret over what the noise is for, with a digest
of the updates that it is added to. Other updates get independent noise: the difference of two means
of one round, as after a kill, does not give an update away.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedrai.errors import RunError
from fedrai.federation.privacy.noise import KEY
from fedrai.model.adapters import AdapterState
from fedrai.recipe.sections import seed_for
from fedrai.runs.files import digest_of, write_bytes

OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class Secret:
    """What the keys of noise are derived from.

    Attributes:
        value: 32 bytes.
        public: whether it follows from the recipe's seed, so that others can compute it.
    """

    value: bytes
    public: bool

    def __repr__(self) -> str:
        return f"Secret(public={self.public})"

    def digest(self, *purpose: str | int, adapters: Mapping[str, AdapterState]) -> str:
        """Names what noise is added to, in hex; without the secret it says nothing of it.

        Args:
            purpose: what the noise is for.
            adapters: what it is added to, by name.
        """
        parts = [[name, digest_of(adapters[name])] for name in sorted(adapters)]
        return hmac.new(self.value, _bytes(["digest", *purpose, parts]), hashlib.sha256).hexdigest()

    def key(self, *purpose: str | int) -> bytes:
        """The key of one use."""
        return hmac.new(self.value, _bytes(["noise", *purpose]), hashlib.sha256).digest()

    def seed(self, purpose: str) -> int:
        """A seed for `recipe.seed_for` that nobody else knows."""
        key = hmac.new(self.value, _bytes(["seed", purpose]), hashlib.sha256).digest()
        return int.from_bytes(key[:8], "big") >> 1


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def of_seed(seed: int) -> Secret:
    """The secret of an experiment, which follows from the recipe's seed."""
    return Secret(hashlib.sha256(_bytes(["privacy", seed_for(seed, "privacy")])).digest(), True)


def in_file(file: Path) -> Secret:
    """The secret in a file, which is made if it is not there, readable by its owner alone.

    Raises:
        RunError: the file cannot be written or read, or is damaged.
    """
    try:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, secrets.token_bytes(KEY), mode=OWNER_ONLY)
        value = file.read_bytes()
    except OSError as error:
        raise RunError(f"{file} cannot be used: {error.strerror}") from error
    if len(value) != KEY:
        raise RunError(
            f"{file} is damaged: expected {KEY} bytes, got {len(value)}",
            hint="delete it: repeated rounds then get new noise, and count again",
        )
    return Secret(value, False)

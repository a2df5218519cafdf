"""What a run gets of the variables of its request, and whether the server's key goes with them.

A rule for every launcher: whoever sends a request says where its prompt goes, and
the server's key goes only where the server's own settings send it.
"""

import re
from collections.abc import Iterable, Mapping

PASS = "CLI_ENV_PASS"  # noqa: S105 - a name, no password
"""Tells ``docker-entrypoint.sh`` which variables a CLI gets beside those that it needs."""

_KEY = "LITELLM_API_KEY"

_WAY = {
    *("LITELLM_BASE_URL", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"),
    *("all_proxy", "http_proxy", "https_proxy"),
    *("HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS"),  # of the resolver
}
"""Variables that decide who gets to see the key."""

_NOT_OF_A_PROVIDER = re.compile(
    r"(?!ANTHROPIC|AWS|AZURE|BEDROCK|CLAUDE|CLOUDSDK|CLOUD_|CODEX|CODE_ASSIST|DASHSCOPE|GCE_"
    r"|GCLOUD|GCP|GEMINI|GOOGLE|OPENAI|OPENCODE|OPENROUTER|QWEN|VERTEX"  # accounts, models
    r"|BUN_|NODE_OPTIONS|XDG_)"  # code and settings from elsewhere
    r"[A-Za-z][A-Za-z0-9_]*"
)
"""Names that a request may give to a CLI. Without blanks or commas, so that one is one."""


def overlay(environ: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """Return the server's variables with those of a request over them.

    A request that sends its run elsewhere than ``environ`` does, and brings no key of
    its own, has an empty one: left out, another of the image could take its place.

    Args:
      environ: what the server gives to the run.
      env: what the request sets.
    """
    merged = {**environ, **env}
    if _KEY not in env and any(env[name] != environ.get(name) for name in _WAY & env.keys()):
        merged[_KEY] = ""
    return merged


def passed(names: Iterable[str], env: Mapping[str, str]) -> str:
    """Return the value of ``CLI_ENV_PASS`` for one run.

    Args:
      names: what the operator lets through, whatever it is.
      env: what the request sets. What belongs to a provider is left out: the CLI is
        set up for the proxy, with the server's key.
    """
    return ",".join((*names, *filter(_NOT_OF_A_PROVIDER.fullmatch, env)))

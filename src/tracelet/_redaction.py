"""
What looks like a secret, and how it is blotted out of what we collect, print and write down.

A name is judged by its whole words, a value by its shape; both together decide. So ``api_key`` and
``HF_TOKEN`` are hidden, and ``num_memory_tokens``, ``pad_token``, ``key_size`` and ``monkey`` are
not. Values that are known to be secret are hidden wherever they stand. The rules are told in
``docs/context.md``. Whatever a user logs is his own: none of this touches it.
"""

from __future__ import annotations

import re
from typing import Iterable, Mapping, Sequence

__all__ = [
    "HIDDEN",
    "is_secret",
    "known_values",
    "looks_secret",
    "redacted_command",
    "redacted_line",
    "redacted_text",
    "without_credentials",
]

HIDDEN = "[secret]"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: A name that has one of these words is that of a secret, whatever else it says …
_SURE = _words(
    "apikey apitoken accesskey accesstoken authorization authtoken bearer credential credentials "
    "jwt passcode passphrase passwd password privatekey pwd secret secretkey secrets"
)
_SURE_ENDINGS = ("password", "passwd", "passphrase", "apikey", "secretkey")
#: … unless its last word says that it is only about one.
_ABOUT = _words(
    "count dir directory enabled encoding env expiry field file filename folder format id len "
    "length max min mode name names num path policy prompt required rounds size store ttl type "
    "url version"
)
#: Whose keys are secret.
_KEY_OWNERS = _words(
    "access account admin anthropic api app auth aws azure bot client clearml comet consumer "
    "cohere encryption gcp gemini google hf huggingface license master mistral neptune openai "
    "private secret service shared signing ssh storage subscription wandb"
)
#: Tokens, passes and keys of language models, optimizers and the like: no secrets.
_HARMLESS_TOKENS = _words(
    "assistant audio avg begin bos class cls end eos forced fim global image img init last "
    "latent mask max mean memory min n new next num number object pad patch per prefix prompt "
    "query register sep separator sos special start stop suffix system task text think total "
    "unk unknown video visual vision vocab"
)
_HARMLESS_PASSES = _words("backward first forward full last multi one per second single")
#: What says how somebody proves who he is, not with what.
_WAYS = _words(
    "basic bearer digest iam ignore kerberos key ldap local none oauth ntlm oidc saml ssh token"
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_PLAIN = frozenset(("", "true", "false", "yes", "no", "on", "off", "none", "null", "auto"))
#: ``<pad>``, ``[MASK]``, ``{x}``, ``$X``, ``***``: a marker or a place for a value, not a value.
_MARKER = re.compile(r"<.*>|\[.*\]|\{.*\}|\$\{?\w+\}?|\*+|%\(?\w+\)?s?|\.\.\.|…")
_PATH = re.compile(r"(~|\.{1,2})?/.*|[A-Za-z]:\\.*|.*\.(json|pem|crt|key|txt|ya?ml|toml|ini)")

#: Tokens that their issuers made to be recognised.
_ISSUED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[A-Za-z0-9_-]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|hf_[A-Za-z0-9]{20,}|xox[abeprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}"
    r"|ya29\.[\w-]{20,}|dapi[0-9a-f]{32}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{40,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
#: ``user:password@`` of an address, up to the last ``@`` that belongs to it. Databases take a
#: password with a slash in it; what follows the colon may be a port instead.
_USERINFO = re.compile(
    r"(?<=://)(?:[^/:@\s'\"]+:[^/\s'\"]*|[^/:@\s'\"]+:(?!\d+[/?#])[^@\s'\"]{0,200}|[^/?#\s'\"]*)@"
)
_PARAMETER = re.compile(r"(?<=[?&;])([\w.\-]+)=([^&;#\s'\"]+)")
#: In an address these mean a credential, whatever they mean elsewhere.
_IN_ADDRESSES = _words("auth code credential key pass pw sig signature token")
_HEADER = re.compile(
    r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token|digest)\s+)?)([^\s'\",;]+)"
)
_BEARER = re.compile(r"(?i)(\bbearer\s+)([\w.~+/=-]{8,})")
# From the beginning of a word only: a long word would otherwise be looked at from each letter on.
_PAIR = re.compile(
    r"(?<![\w.\-])(-*[A-Za-z_][\w.\-]*)(['\"]?\s*[=:]\s*)(?!--)(\"[^\"]*\"|'[^']*'|[^\s,;&\"'{}\[\]()]+)"
)
_OPTION = re.compile(r"(--?|\+{1,2}|-D)?([A-Za-z_][\w.\-/]*)=(.*)", re.DOTALL)
_FLAG = re.compile(r"--?[A-Za-z][\w.\-]*")


def is_secret(name: str, value: str) -> bool:  # noqa: PLR0911 - one line for each rule
    """
    Tell whether a value under this name must not be written down.

    Args:
        name: Of an option, a variable, a parameter; in any spelling (``apiKey``, ``--api-key``).
        value: Its value as text.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    plain = value.strip().strip("'\"")
    if not words or plain.lower() in _PLAIN or _MARKER.fullmatch(plain):
        return False
    last, before = words[-1], words[:-1]
    number = _NUMBER.fullmatch(plain) is not None
    if _SURE.intersection(words) or any(word.endswith(_SURE_ENDINGS) for word in words):
        if "authorization" in words and plain.lower() in _WAYS:
            return False  # the way stands before the secret
        if last in _ABOUT or (number and last in ("secrets", "credentials")):
            return False
        return not (last.startswith("credential") and _PATH.fullmatch(plain))
    if number:
        return False
    if last == "token":
        return not _HARMLESS_TOKENS.intersection(before)
    if last == "key":
        return bool(_KEY_OWNERS.intersection(before[-1:])) or _is_random(plain)
    if last in ("pass", "pw"):
        return not _HARMLESS_PASSES.intersection(before)
    if last == "auth":
        return plain.lower() not in _WAYS
    return last in ("pat", "sig", "signature", "cookie", "sas") and _is_random(plain)


def looks_secret(value: str) -> bool:
    """Tell whether a value by itself looks like a token or a key that somebody issued."""
    return bool(_ISSUED.search(value) or _PRIVATE_KEY.search(value)) or _is_random(value)


def known_values(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the values of variables that are secret by their name: to be hidden anywhere."""
    return frozenset(
        value
        for name, value in environ.items()
        if len(value) >= (12 if value.isalpha() else 8) and is_secret(name, value)
    )


def redacted_text(text: str, known: Iterable[str] = ()) -> str:
    """
    Return a text without what looks like a secret in it.

    Args:
        text: Any text: a log line, an argument, a value.
        known: Values that are secret.
    """
    for value in sorted(known, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    text = _HEADER.sub(rf"\1{HIDDEN}", redacted_line(text))
    return _PAIR.sub(_hide_pair, text)


def redacted_line(line: str) -> str:
    """
    Return a sentence of ours without addresses' credentials and without issued tokens.

    A sentence may well say ``password: expired``, so names followed by words are left alone.
    """
    line = _PRIVATE_KEY.sub(HIDDEN, line)
    line = _USERINFO.sub(f"{HIDDEN}@", line)
    line = _PARAMETER.sub(_hide_parameter, line)
    line = _BEARER.sub(rf"\1{HIDDEN}", line)
    return _ISSUED.sub(HIDDEN, line)


def redacted_command(arguments: Sequence[str], known: Iterable[str] = ()) -> list[str]:
    """
    Return a command line without secrets: ``--token x``, ``--token=x``, ``trainer.api_key=x``.

    Args:
        arguments: The command and its arguments.
        known: Values that are secret.
    """
    known = list(known)
    result: list[str] = []
    option = ""
    for argument in arguments:
        is_flag = _FLAG.fullmatch(argument) is not None
        if option and not is_flag and is_secret(option, argument):
            result.append(HIDDEN)
            option = ""
            continue
        option = argument if is_flag else ""
        pair = _OPTION.fullmatch(argument)
        if pair is not None and is_secret(pair[2], pair[3]):
            result.append(f"{pair[1] or ''}{pair[2]}={HIDDEN}")
        else:
            result.append(redacted_text(argument, known))
    return result


def without_credentials(address: str) -> str:
    """
    Return an address without user name and password, and without parameters that are secret.

    ``git@host:path``, which is no URL, stays as it is: the name in it is everybody's.
    """
    bare = _USERINFO.sub("", address)
    if "?" not in bare:
        return _ISSUED.sub(HIDDEN, bare)
    path, _, rest = bare.partition("?")
    query, hash_, fragment = rest.partition("#")
    kept = [
        each
        for each in query.split("&")
        if not _is_secret_parameter(each.partition("=")[0], each.partition("=")[2])
    ]
    tail = f"?{'&'.join(kept)}" if kept else ""
    return _ISSUED.sub(HIDDEN, f"{path}{tail}{hash_}{fragment}")


def _hide_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}={HIDDEN}" if _is_secret_parameter(found[1], found[2]) else found[0]


def _is_secret_parameter(name: str, value: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if not value or not words:
        return False
    if words[-1] in _IN_ADDRESSES:
        return not _NUMBER.fullmatch(value) and value.lower() not in _PLAIN
    return is_secret(name, value)


def _hide_pair(found: re.Match[str]) -> str:
    if not is_secret(found[1], found[3]):
        # What stands behind a colon may be a pair itself: "the server said: token=…".
        return found[1] + found[2] + _PAIR.sub(_hide_value, found[3])
    return _hide_value(found)


def _hide_value(found: re.Match[str]) -> str:
    value = found[3]
    if value.startswith(HIDDEN[:-1]) or not is_secret(found[1], value):
        return found[0]
    quote = value[0] if value[0] in "'\"" else ""
    return f"{found[1]}{found[2]}{quote}{HIDDEN}{quote}"


def _is_random(value: str) -> bool:
    """Tell whether a value is one long word of letters and digits mixed, as keys are."""
    return (
        len(value) >= 16
        and re.fullmatch(r"[\w+/=.~-]+", value) is not None
        and not _PATH.fullmatch(value)
        and sum(each.isdigit() for each in value) >= 3
        and sum(each.isalpha() for each in value) >= 3
    )

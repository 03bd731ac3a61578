from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BackMessage(_message.Message):
    __slots__ = ("hello", "guesses", "ping", "pong", "status", "meanings")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    GUESSES_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MEANINGS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    guesses: Guesses
    ping: Ping
    pong: Pong
    status: Status
    meanings: Meanings
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., guesses: _Optional[_Union[Guesses, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., meanings: _Optional[_Union[Meanings, _Mapping]] = ...) -> None: ...

class LeadMessage(_message.Message):
    __slots__ = ("welcome", "refusal", "begin", "commit", "end", "ping", "pong", "compare", "wait", "benefit")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    BENEFIT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    refusal: Refusal
    begin: Begin
    commit: Commit
    end: End
    ping: Ping
    pong: Pong
    compare: Compare
    wait: Wait
    benefit: Benefit
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., begin: _Optional[_Union[Begin, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., compare: _Optional[_Union[Compare, _Mapping]] = ..., wait: _Optional[_Union[Wait, _Mapping]] = ..., benefit: _Optional[_Union[Benefit, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "name", "model", "vocabulary_fingerprint", "vocabulary_size", "known", "looks", "hears_benefit")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    LOOKS_FIELD_NUMBER: _ClassVar[int]
    HEARS_BENEFIT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    name: str
    model: str
    vocabulary_fingerprint: str
    vocabulary_size: int
    known: _containers.RepeatedCompositeFieldContainer[Known]
    looks: bool
    hears_benefit: bool
    def __init__(self, protocol_version: _Optional[int] = ..., name: _Optional[str] = ..., model: _Optional[str] = ..., vocabulary_fingerprint: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., known: _Optional[_Iterable[_Union[Known, _Mapping]]] = ..., looks: _Optional[bool] = ..., hears_benefit: _Optional[bool] = ...) -> None: ...

class Known(_message.Message):
    __slots__ = ("session", "length", "hash")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    session: int
    length: int
    hash: int
    def __init__(self, session: _Optional[int] = ..., length: _Optional[int] = ..., hash: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol_version", "name", "model", "vocabulary_size", "differing", "compared", "first")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    DIFFERING_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    name: str
    model: str
    vocabulary_size: int
    differing: _containers.RepeatedScalarFieldContainer[int]
    compared: int
    first: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., name: _Optional[str] = ..., model: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., differing: _Optional[_Iterable[int]] = ..., compared: _Optional[int] = ..., first: _Optional[bytes] = ...) -> None: ...

class Compare(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    def __init__(self, tokens: _Optional[int] = ...) -> None: ...

class Meanings(_message.Message):
    __slots__ = ("start", "meanings", "more")
    START_FIELD_NUMBER: _ClassVar[int]
    MEANINGS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    start: int
    meanings: _containers.RepeatedScalarFieldContainer[bytes]
    more: bool
    def __init__(self, start: _Optional[int] = ..., meanings: _Optional[_Iterable[bytes]] = ..., more: _Optional[bool] = ...) -> None: ...

class Wait(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class Benefit(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "message", "target")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Refusal.Reason]
        REASON_PROTOCOL_VERSION: _ClassVar[Refusal.Reason]
        REASON_VOCABULARY: _ClassVar[Refusal.Reason]
        REASON_MALFORMED: _ClassVar[Refusal.Reason]
        REASON_TOO_MANY_BACKS: _ClassVar[Refusal.Reason]
    REASON_UNSPECIFIED: Refusal.Reason
    REASON_PROTOCOL_VERSION: Refusal.Reason
    REASON_VOCABULARY: Refusal.Reason
    REASON_MALFORMED: Refusal.Reason
    REASON_TOO_MANY_BACKS: Refusal.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    reason: Refusal.Reason
    message: str
    target: Vocabulary
    def __init__(self, reason: _Optional[_Union[Refusal.Reason, str]] = ..., message: _Optional[str] = ..., target: _Optional[_Union[Vocabulary, _Mapping]] = ...) -> None: ...

class Vocabulary(_message.Message):
    __slots__ = ("fingerprint", "tokens", "sample", "model_bytes")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    tokens: int
    sample: _containers.RepeatedScalarFieldContainer[bytes]
    model_bytes: int
    def __init__(self, fingerprint: _Optional[str] = ..., tokens: _Optional[int] = ..., sample: _Optional[_Iterable[bytes]] = ..., model_bytes: _Optional[int] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "grammar")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    seed: int
    grammar: str
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., seed: _Optional[int] = ..., grammar: _Optional[str] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ("session", "sampling", "prompt_length", "turn", "backs", "ends")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    BACKS_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    session: int
    sampling: Sampling
    prompt_length: int
    turn: int
    backs: int
    ends: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., prompt_length: _Optional[int] = ..., turn: _Optional[int] = ..., backs: _Optional[int] = ..., ends: _Optional[_Iterable[int]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("session", "start", "tokens", "more")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    session: int
    start: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    more: bool
    def __init__(self, session: _Optional[int] = ..., start: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., more: _Optional[bool] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: int
    def __init__(self, session: _Optional[int] = ...) -> None: ...

class Guesses(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionGuesses]
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionGuesses, _Mapping]]] = ...) -> None: ...

class SessionGuesses(_message.Message):
    __slots__ = ("session", "expansions")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EXPANSIONS_FIELD_NUMBER: _ClassVar[int]
    session: int
    expansions: _containers.RepeatedCompositeFieldContainer[Expansion]
    def __init__(self, session: _Optional[int] = ..., expansions: _Optional[_Iterable[_Union[Expansion, _Mapping]]] = ...) -> None: ...

class Expansion(_message.Message):
    __slots__ = ("length", "hash", "tokens", "probabilities")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    length: int
    hash: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, length: _Optional[int] = ..., hash: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("state",)
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Status.State]
        STATE_WAITING: _ClassVar[Status.State]
        STATE_CATCHING_UP: _ClassVar[Status.State]
        STATE_DRAFTING: _ClassVar[Status.State]
    STATE_UNSPECIFIED: Status.State
    STATE_WAITING: Status.State
    STATE_CATCHING_UP: Status.State
    STATE_DRAFTING: Status.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: Status.State
    def __init__(self, state: _Optional[_Union[Status.State, str]] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: int
    def __init__(self, value: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("value", "clock")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    value: int
    clock: int
    def __init__(self, value: _Optional[int] = ..., clock: _Optional[int] = ...) -> None: ...

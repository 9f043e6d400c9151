"""Ask Redis what its user may do (ACL), and name the rules that are missing.

A server refuses a command already when it is queued in a transaction. So each command is queued with the keys and channels
that Celery uses, and the transaction is discarded. `ACL DRYRUN` would tell the same, but most such users may not use it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kombu.transport import redis
from redis.exceptions import ResponseError

Try = tuple[str, ...]
"""A pattern for the keys or the channel of a command, and the command."""
X = "x"
"""A value, a member or a part of a name. It is never stored."""
NO_SCRIPT = "0" * 40


class Refused(ConnectionError):
    """The user may not do what a worker does. The text names the rules."""

    def __init__(self, rules: Iterable[str]) -> None:
        super().__init__(f"The user of Redis may not do what a worker does. Add to its ACL: {' '.join(rules)}")


def is_refusal(error: BaseException) -> bool:
    """Return whether Redis says that its user may not do this, or that a script of this user may not."""
    return isinstance(error, ResponseError) and any(
        words in str(error) for words in ("permissions", "executing the script")
    )


def needed(channel: Any, queues: Iterable[str]) -> list[str]:
    """Return the missing rules without which a worker gets no task of these queues. `channel` is one of kombu's."""
    return _missing(channel, [*_of_queues(channel, queues)])


def optional(channel: Any) -> list[str]:
    """Return the missing rules without which there is no remote control, and Flower shows nothing."""
    return _missing(channel, [*_of_remote_control(channel)])


def require(channel: Any, queues: Sequence[str]) -> None:
    """Raise Refused, which names the rules, unless a worker may work. A broker that is not Redis has no such rules."""
    if queues and isinstance(channel, redis.Channel) and (rules := needed(channel, queues)):
        raise Refused(rules)


def _missing(channel: Any, tries: Sequence[Try]) -> list[str]:
    with channel.conn_or_acquire() as client:
        link = client.connection_pool.get_connection()
        try:
            rules = _refused(link, [*_of_transactions(channel)])
            if "+multi" not in rules:
                rules += _refused(link, [*tries, ("", "DISCARD")])
            if rules:
                link.disconnect()  # DISCARD may be refused, too
            return [*dict.fromkeys(rules)]
        finally:
            client.connection_pool.release(link)


def _refused(link: Any, tries: Sequence[Try]) -> list[str]:
    """Return the rules that would permit what is refused."""
    link.send_packed_command(link.pack_commands([command for _, *command in tries]))
    rules = [
        _rule(pattern, command, error) for (pattern, *command), error in zip(tries, _errors(link, tries), strict=True)
    ]
    return [*filter(None, rules)]


def _errors(link: Any, tries: Sequence[Try]) -> Iterator[ResponseError | None]:
    for _ in tries:
        try:
            link.read_response()
        except ResponseError as error:
            yield error
        else:
            yield None


def _rule(pattern: str, command: Sequence[str], error: ResponseError | None) -> str:
    if error is None or not is_refusal(error):
        return ""
    if "to run" in str(error):
        return f"+{'|'.join(command[:2]) if command[0] == 'SCRIPT' else command[0]}".lower()
    return f"{'&' if 'channel' in str(error) else '~'}{pattern}"


def _of_transactions(channel: Any) -> Iterator[Try]:
    unacked = channel.global_keyprefix + channel.unacked_key
    yield unacked, "WATCH", unacked
    for name in ("UNWATCH", "EXEC", "DISCARD", "MULTI"):
        yield "", name


def _of_queues(channel: Any, queues: Iterable[str]) -> Iterator[Try]:
    prefix = channel.global_keyprefix
    for queue in queues:
        keys = [prefix + channel._q_for_pri(queue, step) for step in channel.priority_steps]
        yield from _on(keys[0], f"{prefix}{queue}*", "LPUSH x", "RPUSH x", "LLEN", "EXISTS")
        yield f"{prefix}{queue}*", "BRPOP", *keys, "0"
    yield from _on(f"{prefix}_kombu.binding.x", f"{prefix}_kombu.*", "SADD x", "SMEMBERS")
    unacked, index, mutex = channel.unacked_key, channel.unacked_index_key, channel.unacked_mutex_key
    yield from _on(prefix + unacked, prefix + unacked, "HSET x x", "HGET x", "HDEL x")
    yield from _on(prefix + index, prefix + index, "ZADD 0 x", "ZREM x", "ZRANGE 0 0")
    yield from _on(prefix + mutex, prefix + mutex, "SET x")
    yield from _on(f"{prefix}mailer.malformed", f"{prefix}mailer.malformed", "LPUSH x", "LTRIM 0 0")


def _of_remote_control(channel: Any) -> Iterator[Try]:
    """Celery's remote control and events: channels, queues that expire, and the scripts for their bindings and for a lock."""
    prefix = channel.global_keyprefix
    control, events = f"{prefix}{channel.keyprefix_fanout}celery.pidbox", f"{prefix}{channel.keyprefix_fanout}celeryev/"
    for topic in (control, f"{events}*"):  # a pattern is permitted by the same pattern alone
        yield topic, "PUBLISH", topic, X
        yield topic, "PSUBSCRIBE", topic
    yield "", "PUNSUBSCRIBE"
    table, deadlines = f"{prefix}_kombu.binding.x", f"{prefix}_kombu.binding_deadlines"
    yield f"{prefix}_kombu.*", "EVALSHA", NO_SCRIPT, "2", table, deadlines
    yield "", "SCRIPT", "LOAD", "return 1"
    yield "", "SCRIPT", "EXISTS", NO_SCRIPT
    yield "", "TIME"
    yield from _on(table, f"{prefix}_kombu.*", "SREM x")
    yield from _on(deadlines, f"{prefix}_kombu.*", "ZRANGEBYSCORE 0 0")
    yield from _on(prefix + channel.unacked_mutex_key, prefix + channel.unacked_mutex_key, "GET", "DEL")
    yield from _on(
        f"{prefix}x.celery.pidbox", f"{prefix}*.celery.pidbox*", "LLEN", "LPUSH x", "PEXPIRE 1", "BRPOP 0", "DEL"
    )
    yield from _on(f"{prefix}celeryev.x", f"{prefix}celeryev.*", "DEL")


def _on(key: str, pattern: str, *commands: str) -> Iterator[Try]:
    for name, *arguments in map(str.split, commands):
        yield pattern, name, key, *arguments

"""How much memory a program needs on each device, estimated before it compiles.

A walk over the program's jaxpr, in its order, that adds what is written and takes off
what is no longer read. Three things of XLA's are modelled, no more: what can be
computed where it is read is not stored (element by element, broadcasts, reshapes);
loops work in place; on TPU an array is stored in tiles of 8 x 128 elements, with the
two axes innermost that waste the least.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core

# What XLA stores; all else it computes where it is read.
_STORED = (
    "conv_general_dilated",
    "cum",
    "dot_general",
    "dynamic_update_slice",
    "gather",
    "ppermute",
    "random_bits",
    "reduce",
    "scatter",
    "select_and",
    "sort",
    "top_k",
)

_ON_CHIP = {"tpu": 128 * 2**20}
"""Bytes that the compiler keeps beside the cores, outside of the device's memory."""


def array_bytes(shape: tuple[int, ...], itemsize: int, platform: str) -> int:
    """Counts the bytes of an array, and on TPU of the tiles that hold it.

    Args:
        shape: of the array, or of a device's share of it.
        itemsize: bytes of an element.
        platform: that the program is compiled for.

    Returns:
        Bytes.

    Example:
        >>> array_bytes((64, 10), 4, "cpu"), array_bytes((64, 10), 4, "tpu")
        (2560, 8192)
    """
    size = math.prod(shape)
    if platform != "tpu" or len(shape) < 2 or not size:
        return size * itemsize
    tiles = (
        size // (long * short) * _round_up(long, 128) * _round_up(short, 8)
        for long, short in itertools.permutations(shape, 2)
    )
    return min(tiles) * itemsize


def program_bytes(
    function: Any, args: Any, *, platform: str, donated: tuple[int, ...] = ()
) -> int:
    """Estimates the memory that a program needs on one device.

    Args:
        function: as it is given to `jax.jit`.
        args: a tuple of pytrees of arrays or `ShapeDtypeStruct`s; a leaf with a
            sharding counts by a device's share.
        platform: that the program is compiled for.
        donated: positions in `args` whose memory the program may reuse.

    Returns:
        Bytes: arguments, results and what is held at once in between.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
        >>> program_bytes(lambda x: jnp.tanh(x @ x).sum(), (x,), platform="cpu") // 1024
        512
    """
    closed = jax.make_jaxpr(function)(*args)
    walk = _Walk(platform)
    tokens = []
    for position, arg in enumerate(args):
        for leaf in jax.tree.leaves(arg):
            token = walk.new(_leaf_bytes(leaf, platform))
            walk.kept |= set() if position in donated else {token}
            tokens.append(frozenset([token]))
    arguments = set(walk.size)
    steps: list[_Step] = []
    outs = walk.inline(closed.jaxpr, tokens, steps)
    results = [
        roots - walk.kept or {walk.new(_var_bytes(var, platform))}
        for var, roots in zip(closed.jaxpr.outvars, outs, strict=True)
    ]
    results = set().union(*results)
    steps.append(
        _Step(set().union(*outs), sorted(results - set().union(*outs)), _NOTHING, {})
    )
    read = set().union(*(step.reads for step in steps))
    walk.off_chip_only |= arguments
    walk.kept |= results
    given = sum(walk.size[token] for token in arguments & read)
    held = walk.peak(steps, _Held(given, sum(walk.copies.values())))
    remain = sum(walk.size[token] for token in arguments & read & walk.kept | results)
    return max(walk.off_chip(held), remain)


class _Held(NamedTuple):
    """Bytes held at a time: for certain in the device's memory, and perhaps on chip."""

    off_chip: int
    anywhere: int

    def plus(self, other: _Held, sign: int = 1) -> _Held:
        return _Held(*(a + sign * b for a, b in zip(self, other, strict=True)))


class _Step(NamedTuple):
    """An operation that stores something: tokens read and written, bytes held inside.

    `reuses` maps a token written to the one whose memory it takes if nobody reads it
    later: a loop's.
    """

    reads: set[int]
    writes: list[int]
    inside: _Held
    reuses: dict[int, int]


_NOTHING = _Held(0, 0)


class _Walk:
    """The arrays of a program, numbered; every other value is a set of these."""

    def __init__(self, platform: str) -> None:
        self.platform = platform
        self.size: dict[int, int] = {}
        self.kept: set[int] = set()
        self.copies: dict[int, int] = {}
        self.off_chip_only: set[int] = set()
        self.on_chip = _ON_CHIP.get(platform, 0)

    def new(self, size: int) -> int:
        self.size[len(self.size)] = size
        return len(self.size) - 1

    def off_chip(self, held: _Held) -> int:
        return held.off_chip + max(0, held.anywhere - self.on_chip)

    def held(self, tokens) -> _Held:
        """Arguments, and what is too large for the chip, lie in the device's memory."""
        outside = sum(
            self.size[t]
            for t in tokens
            if t in self.off_chip_only or self.size[t] > self.on_chip
        )
        return _Held(outside, sum(self.size[t] for t in tokens) - outside)

    def inline(self, jaxpr, operands, steps, outer=frozenset()):
        """Appends a jaxpr's steps; returns the arrays behind each result."""
        env = dict(zip(jaxpr.invars, operands, strict=True))

        def read(atom):
            known = isinstance(atom, core.Var)
            return env.get(atom, frozenset()) if known else frozenset()

        for eqn in jaxpr.eqns:
            results = self.apply(eqn, [read(atom) for atom in eqn.invars], steps, outer)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, eqn, operands, steps, outer):
        name, params = eqn.primitive.name, eqn.params
        if name == "cond" and params.get("branches_platforms"):
            branch = self._branch(params["branches_platforms"])
            body = params["branches"][branch].jaxpr
            return self.inline(body, operands[1:], steps, outer)
        if name in ("scan", "while", "cond"):
            return self._loop(eqn, operands, steps, outer)
        body = next(
            (params[k] for k in ("jaxpr", "call_jaxpr", "call") if k in params), None
        )
        body = getattr(body, "jaxpr", body)
        if body is not None and len(body.invars) == len(operands):
            results = self.inline(body, operands, steps, outer)
            if name != "shard_map":
                return results
            # Constants get the size of a device's share, which only the body knows.
            return [
                roots or self._store([var], roots, _NOTHING, {}, steps)[0]
                for var, roots in zip(body.outvars, results, strict=True)
            ]
        reads = frozenset().union(*operands)
        if not name.startswith(_STORED):
            if name == "reshape" and len(reads - outer) == len(reads) == 1:
                # Stored as it is read: its tiles may be emptier in the other shape.
                (token,) = reads
                other = _var_bytes(eqn.outvars[0], self.platform)
                self.size[token] = max(self.size[token], other)
            return [reads] * len(eqn.outvars)
        if name == "gather" and self.platform == "tpu" and operands[0] & outer:
            # Rows that a loop picks are copied once so that each lies in one piece.
            shape, itemsize = _shape_and_itemsize(eqn.invars[0].aval)
            *rest, short, long = (1, 1, *(n for n in shape if n > 1))
            rows = math.prod(rest) * _round_up(short, 8) * _round_up(long, 128)
            self.copies[min(operands[0] & outer)] = rows * itemsize
        results = self._store(eqn.outvars, reads, _NOTHING, {}, steps)
        if name == "ppermute":  # another device writes it into the device's memory
            self.off_chip_only.update(*results)
        return results

    def _store(self, variables, reads, inside, reuses, steps):
        writes = [self.new(_var_bytes(var, self.platform)) for var in variables]
        reuses = {writes[position]: token for position, token in reuses.items()}
        steps.append(_Step(set(reads), writes, inside, reuses))
        return [frozenset([token]) for token in writes]

    def _loop(self, eqn, operands, steps, outer):
        name, params = eqn.primitive.name, eqn.params
        if name == "scan":
            bodies = [params["jaxpr"].jaxpr]
            num_consts, num_carry = params["num_consts"], params["num_carry"]
            carried = operands[num_consts : num_consts + num_carry]
        elif name == "while":
            bodies = [params["body_jaxpr"].jaxpr]
            skipped, num_consts = params["cond_nconsts"], params["body_nconsts"]
            operands = operands[skipped:]
            carried = operands[num_consts:]
        else:
            bodies = [branch.jaxpr for branch in params["branches"]]
            operands, carried = operands[1:], []
            num_consts = len(operands)
        reads = frozenset().union(*operands)
        inside = _NOTHING
        for body in bodies:
            given = []
            for position, var in enumerate(body.invars):
                if position < num_consts:
                    given.append(operands[position])
                    continue
                # What is carried is counted outside; a slice is the body's own.
                is_slice = position >= num_consts + len(carried)
                own = self.new(_var_bytes(var, self.platform) if is_slice else 0)
                given.append(frozenset([own]))
            body_steps: list[_Step] = []
            outs = self.inline(body, given, body_steps, outer | reads)
            body_steps.append(_Step(set().union(*outs), [], _NOTHING, {}))
            slices = {t for g in given[num_consts:] for t in g}
            held = self.peak(body_steps, self.held(slices), frozenset(reads))
            inside = max(inside, held, key=self.off_chip_first)
        reuses = {
            position: min(roots)
            for position, roots in enumerate(carried)
            if len(roots) == 1
        }
        return self._store(eqn.outvars, reads, inside, reuses, steps)

    def off_chip_first(self, held: _Held) -> tuple[int, int]:
        return self.off_chip(held), held.anywhere

    def peak(self, steps: list[_Step], live: _Held, foreign=frozenset()) -> _Held:
        """Follows what is held, step by step."""
        last = {token: n for n, step in enumerate(steps) for token in step.reads}
        highest = live
        for number, step in enumerate(steps):
            dying = {
                token
                for token in step.reads
                if last[token] == number
                and token not in self.kept
                and token not in foreign
            }
            for token in step.writes:
                reused = step.reuses.get(token)
                if reused in dying:
                    dying.remove(reused)
                    self.size[token] = self.size[reused]
                    if reused in self.off_chip_only:
                        self.off_chip_only.add(token)
                else:
                    live = live.plus(self.held([token]))
            highest = max(highest, live.plus(step.inside), key=self.off_chip_first)
            unread = {token for token in step.writes if token not in last}
            live = live.plus(self.held(dying | (unread - self.kept)), -1)
        return highest

    def _branch(self, branches_platforms) -> int:
        names = [platforms or () for platforms in branches_platforms]
        default = names.index(()) if () in names else 0
        return next((n for n, p in enumerate(names) if self.platform in p), default)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _shape_and_itemsize(aval: Any) -> tuple[tuple[int, ...], int]:
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return aval.shape, 8
    return aval.shape, aval.dtype.itemsize


def _var_bytes(var: Any, platform: str) -> int:
    if not hasattr(var.aval, "shape"):
        return 0
    return array_bytes(*_shape_and_itemsize(var.aval), platform)


def _leaf_bytes(leaf: Any, platform: str) -> int:
    shape, itemsize = _shape_and_itemsize(leaf)
    sharding = getattr(leaf, "sharding", None)
    if sharding is not None:
        shape = sharding.shard_shape(shape)
    return array_bytes(shape, itemsize, platform)

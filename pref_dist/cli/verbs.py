"""A group of verbs that knows what a mistyped one may have meant."""

import difflib

import click


class VerbGroup(click.Group):
    """The program itself, or a verb with verbs of its own, such as `cache`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb = args[0]
        # Options are click's own matter, and so is a completion, which tries what is not whole yet.
        if verb.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, verb) is not None:
            return super().resolve_command(ctx, args)
        verbs = self.list_commands(ctx)
        nearest = difflib.get_close_matches(verb, verbs, n=1)
        hint = f"Did you mean '{nearest[0]}'?" if nearest else f"Verbs: {', '.join(verbs)}."
        of_whom = "" if ctx.parent is None else f" of {ctx.info_name}"
        raise click.UsageError(f"There is no verb '{verb}'{of_whom}. {hint}", ctx)

"""One program with several jobs. Each job imports only what it needs: the gate and the agent run in every training pod."""

from __future__ import annotations

import sys


def _with_settings(job: str, rest: list[str]) -> int:
    """Run a job that reads the installation's settings."""
    from trainingrun_operator import settings  # noqa: PLC0415

    if job == "operator":
        from trainingrun_operator.controller import main as operator  # noqa: PLC0415

        return operator.run(settings.load())
    if job == "dashboard":
        from trainingrun_operator.dashboard import main as dashboard  # noqa: PLC0415

        try:
            return dashboard.run(settings.load_dashboard())
        except dashboard.NoClusterError as error:
            sys.exit(f"trainingrun-operator: {error}")
    from trainingrun_operator.controller import check  # noqa: PLC0415

    if len(rest) != 1:
        sys.exit("trainingrun-operator: check needs the operator's address: check http://NAME.NAMESPACE.svc:8080")
    return check.run(settings.load(), rest[0])


def main() -> int:
    """Run the job that the first argument names; returns the exit code."""
    job, *rest = sys.argv[1:] or [""]
    match job:
        case "operator" | "dashboard" | "check":
            from trainingrun_operator.settings import SettingsError  # noqa: PLC0415 - see above

            try:
                return _with_settings(job, rest)
            except SettingsError as error:
                sys.exit(f"trainingrun-operator: {error}")
        case "agent":
            from trainingrun_operator.agent import main as agent  # noqa: PLC0415

            return agent.run()
        case "restore":
            from trainingrun_operator.agent import restore  # noqa: PLC0415

            return restore.run()
        case "gate":
            from trainingrun_operator.agent import gate  # noqa: PLC0415

            return gate.run()
        case "stub-training":
            from trainingrun_operator import stub_training  # noqa: PLC0415

            return stub_training.main(rest)
        case _:
            sys.exit(
                f"trainingrun-operator: unknown job {job!r}: expected operator, dashboard, check, agent, restore, gate or stub-training"
            )


if __name__ == "__main__":
    sys.exit(main())

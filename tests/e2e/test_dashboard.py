"""The dashboard in a browser, before the real cluster: who may stop a run, what it looks like when it ends, and what nobody else can make it do."""

from __future__ import annotations

import contextlib
import http.server
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from e2e.ground import REPOSITORY
from e2e.runs import WAIT_SECONDS, Run, Space, unique
from e2e.tenant import RBAC, Tenant
from e2e.web import DESK, PHONE, Web, assert_accessible, assert_fits, web
from playwright.sync_api import expect
from waiting import eventually

from trainingrun_operator.api.status import StopMode
from trainingrun_operator.dashboard.actions import Category, Stop, command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CHART = REPOSITORY / "charts" / "trainingrun-operator"
LONG = ("--epochs", "200", "--step-seconds", "0.05", "--save-every", "20")


@dataclass
class Stage:
    """One namespace with three runs, somebody who may stop them and somebody who may look."""

    web: Web
    space: Space
    editor: Tenant
    viewer: Tenant
    by_hand: Run
    low_loss: Run
    complete: Run

    def path(self, run: Run) -> str:
        return f"/runs/{self.space.name}/{run.name}"


@pytest.fixture(scope="module")
def space(ground, api, bucket, cloud, _spaces, tmp_path_factory):
    """Of this module: its tests look at the same runs."""
    space = Space(ground, api, bucket, cloud, unique("e2e"), tmp_path_factory.mktemp("dashboard"))
    space.open()
    _spaces.append(space)
    yield space
    space.close()


@pytest.fixture(scope="module")
def stage(ground, space) -> Iterator[Stage]:
    with web(ground, space.folder) as served:
        low_loss = space.run(
            "digits", "--epochs", "20", "--step-seconds", "0.05", "--save-every", "20", autoStopLoss=0.3
        )
        complete = space.run("complete", "--epochs", "1", "--step-seconds", "0.02")
        by_hand = space.run("by-hand", *LONG)
        editor, viewer = Tenant.of(space, "editor"), Tenant.of(space, "viewer", "")
        viewer.bind("ClusterRole", "view")
        viewer.wait_may("list", "trainingrun.dev", "trainingruns")
        yield Stage(served, space, editor, viewer, by_hand, low_loss, complete)
        assert not served.complaints


def wait_live(page: Page) -> None:
    expect(page.locator("#live")).to_have_text("Live")


# -- logging in -------------------------------------------------------------------------------------------------


def test_who_logs_in_sees_the_runs_of_their_namespace(stage):
    with stage.web.page("/") as page:
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert_accessible(page)
        page.get_by_role("textbox", name="Token").fill("not-a-token-of-this-cluster")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("rejects this token")
        stage.web.complaints.clear()  # The browser complains of the 401 itself.

        page.get_by_role("textbox", name="Token").fill(stage.viewer.token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"**/?namespace={stage.space.name}")
        wait_live(page)
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert page.evaluate("document.cookie") == ""
        expect(page.get_by_role("link", name="by-hand")).to_be_visible()
        assert_accessible(page)

        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert not page.context.cookies()


# -- stopping ---------------------------------------------------------------------------------------------------


def test_who_may_only_look_has_no_button(stage):
    stage.by_hand.wait_step(20)
    with stage.web.page(stage.path(stage.by_hand), stage.viewer.token) as page:
        wait_live(page)
        expect(page.locator("#numbers")).to_contain_text("epoch")
        expect(page.locator("#log")).to_contain_text("step")
        expect(page.get_by_role("button", name="Stop training")).to_have_count(0)
        expect(page.locator("dialog")).to_have_count(0)
        assert "kubectl patch" not in page.content()


def test_no_other_page_can_press_the_button_or_frame_it(stage):
    """The other page lies on the same host, another port: the browser sends the cookie along, and that must not be enough."""
    target = stage.web.url + stage.path(stage.by_hand)
    with other_site(target) as address, stage.web.page(token=stage.editor.token) as page:
        page.goto(address)
        expect(page.locator("#done")).to_have_text("refused: no answer to read")
        page.locator("iframe").wait_for(state="attached")
        assert page.frame_locator("iframe").get_by_text("by-hand").count() == 0, "It must not be seen in a frame."
        page.get_by_role("button", name="Win a prize").click()
        expect(page.locator("body")).to_contain_text("did not come from a page of this dashboard")
    # The browser says what it refused.
    stage.web.complaints.clear()
    assert not (stage.by_hand.read() or {})["spec"].get("stop")


def test_the_button_stops_the_run_in_the_name_of_who_presses_it(stage):
    run, web_, user = stage.by_hand, stage.web, stage.editor.user
    run.wait_step(10)
    with (
        web_.page(stage.path(run), stage.editor.token) as page,
        web_.page(stage.path(run), stage.viewer.token) as other,
    ):
        wait_live(page)
        wait_live(other)
        expect(page.locator("#curve canvas").first).to_be_visible()
        expect(page.locator("#curve-summary")).to_contain_text("The loss went from")
        expect(page.locator("#checkpoint")).to_contain_text("every file in the bucket is verified")
        assert_accessible(page)
        page.set_viewport_size(PHONE)
        assert_fits(page)
        web_.picture(page, "phone")
        page.set_viewport_size(DESK)

        # By keyboard.
        page.locator("#stop-button").focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Stop training “by-hand”?")
        expect(dialog).to_contain_text("Progress is saved up to checkpoint-")
        page.get_by_label("Reason").select_option(Category.GOOD_ENOUGH)
        page.get_by_label("Details").fill("it's fine")
        said = Stop(Category.GOOD_ENOUGH, "it's fine", StopMode.AUTO)
        expect(page.locator("#stop-dialog-command")).to_have_text(command(stage.space.name, run.name, said.patch(user)))
        assert_accessible(page)
        web_.picture(page, "stop")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(page.locator("#stop-button")).to_be_focused()

        # Whose right is taken away meanwhile is told so, in the dialog.
        page.locator("#stop-button").click()
        with without_rights(stage.editor):
            dialog.get_by_role("button", name="Stop training").click()
            expect(dialog.get_by_role("alert")).to_contain_text(
                f'You may not stop this run. The API server says: trainingruns.trainingrun.dev "by-hand" is forbidden: User "{user}"'
            )
        web_.complaints.clear()  # The browser complains of the 403 itself.

        dialog.get_by_role("button", name="Stop training").click()
        expect(dialog).to_be_hidden()
        expect(page.locator("#stop-button")).to_be_disabled()
        expect(page.locator("#stop-button")).to_have_text("Stopping…")

        # Both pages follow it to its end, without being loaded again.
        for each in (page, other):
            expect(each.locator("#stop li[aria-current=step], #outcome .tone-stopped")).not_to_have_count(0)
            expect(each.locator("#outcome .outcome-title")).to_have_text("Stopped by user", timeout=WAIT_SECONDS * 1000)
            expect(each.locator("#outcome .icon-square")).to_be_visible()
            expect(each.locator("#outcome")).to_contain_text("(good enough: it's fine)")
            expect(each.locator("#outcome .actor")).to_have_text(user)
        expect(page.locator("#stop-button")).to_have_count(0)
        expect(page.locator("#announce")).to_have_text("by-hand: Stopped by user")
        assert_accessible(page)
        web_.picture(page, "stopped", whole=True)

    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    assert status["termination"]["actor"] == user
    assert "(good enough: it's fine)" in status["terminationMessage"]
    run.assert_checkpoint_proven(status)


# -- how runs end -------------------------------------------------------------------------------------------------


def test_an_end_by_low_loss_shows_what_decided(stage):
    stage.low_loss.wait_finished()
    with stage.web.page(stage.path(stage.low_loss), stage.viewer.token) as page:
        wait_live(page)
        expect(page.locator("#outcome .outcome-title")).to_have_text("Auto-stopped (low loss)")
        expect(page.locator("#outcome .tone-good .icon-check")).to_be_visible()
        expect(page.locator("#decision caption")).to_have_text("Samples that decided")
        expect(page.locator(".key-threshold")).to_be_visible()
        expect(page.locator(".key-deciding")).to_be_visible()
        page.locator("#curve-data summary").click()
        expect(page.locator("#curve-rows tr").nth(1)).to_be_visible()
        assert_accessible(page)
        page.locator("#curve-data summary").click()
        web_picture_in_both(stage.web, page)


def web_picture_in_both(web_: Web, page: Page) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        web_.picture(page, f"low-loss-{scheme}")


def test_a_complete_training_is_shown_as_one(stage):
    stage.complete.wait_finished()
    with stage.web.page(stage.path(stage.complete), stage.viewer.token) as page:
        expect(page.locator("#outcome .outcome-title")).to_have_text("Training complete")
        expect(page.locator("#outcome .tone-good .icon-check")).to_be_visible()
        expect(page.locator("#log-note")).to_contain_text("gone")


def test_a_held_run_says_what_keeps_it(stage, s3_proxy):
    run = stage.space.run("held", *LONG, checkpoint={"s3": {"endpointURL": s3_proxy.url}})
    run.wait_commits()
    s3_proxy.cut()
    run.merge({"spec": {"stop": True}})
    with stage.web.page(stage.path(run), stage.editor.token) as page:
        wait_live(page)
        run.wait(lambda status: (status.get("termination") or {}).get("holdReason"), "it says what keeps it")
        expect(page.locator("#outcome .outcome-title")).to_have_text("Held")
        # The reason may change while the bucket is away: page and status are compared until they agree.
        eventually(lambda: f"Held: {hold_reason(run)}" in page.locator("#stop").inner_text(), "the page says why")
        assert_accessible(page)
        page.emulate_media(color_scheme="dark")
        assert_accessible(page)
        s3_proxy.mend()
        expect(page.locator("#outcome .outcome-title")).to_have_text("Stopped by user", timeout=WAIT_SECONDS * 1000)
    run.assert_checkpoint_proven(run.wait_finished())


def hold_reason(run: Run) -> str:
    return str(run.status["termination"]["holdReason"])


def test_the_fleet_shows_every_end_and_what_changes(stage):
    stage.by_hand.merge({"spec": {"stop": True}})
    for run in (stage.by_hand, stage.low_loss, stage.complete):
        run.wait_finished()
    address = f"/?namespace={stage.space.name}&sort=name"
    with stage.web.page(address, stage.viewer.token) as page:
        wait_live(page)
        for words in ("Stopped by user", "Auto-stopped (low loss)", "Training complete"):
            expect(page.get_by_role("cell", name=words).first).to_be_visible()
        # Suspended from its beginning: no pod has to start for it.
        stage.space.run("appears", *LONG, suspend=True)
        expect(page.get_by_role("row", name="appears").get_by_text("Suspended")).to_be_visible()
        assert_accessible(page)
        page.set_viewport_size({"width": 1280, "height": 560})
        stage.web.picture(page, "fleet")
        page.set_viewport_size(PHONE)
        assert_fits(page)
        page.set_viewport_size(DESK)
        page.get_by_label("Search").fill("appears")
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="complete")).to_have_count(0)
        page.get_by_role("link", name="appears").click()
        expect(page.get_by_role("heading", name="appears")).to_be_visible()
        expect(page.locator("#outcome, #head").get_by_text("Suspended").first).to_be_visible()
        assert_accessible(page)

    with stage.web.page(f"/runs/{stage.space.name}/nobody", stage.viewer.token) as page:
        expect(page.get_by_role("heading", name="There is no such run")).to_be_visible()
        assert_accessible(page)
    with stage.web.page("/?namespace=kube-system", stage.viewer.token) as page:
        expect(page.get_by_role("heading", name="Which namespace?")).to_be_visible()
        assert_accessible(page)
    stage.web.complaints.clear()  # The browser complains of the 404 and the 403 themselves.


# -- in the cluster ---------------------------------------------------------------------------------------------


def test_the_chart_installs_a_dashboard_that_shows_who_logs_in_their_runs(stage):
    space, name = stage.space, "trainingrun-operator-dashboard"
    repository, _, tag = space.ground["TRAININGRUN_IMAGE"].rpartition(":")
    values = f"--set dashboard.enabled=true --set image.repository={repository} --set image.tag={tag}"
    only = "--show-only templates/dashboard.yaml"
    space.shell(
        f"helm template trainingrun-operator {CHART} --namespace {space.name} {only} {values} | kubectl apply --filename -"
    )
    space.shell(f"kubectl wait --for=condition=Available deployment/{name} --timeout=230s")
    with forwarded(space, f"service/{name}", 8081) as url:
        inside = Web(url, stage.web.browser)
        with inside.page(f"/?namespace={space.name}", stage.viewer.token) as page:
            wait_live(page)
            expect(page.get_by_role("link", name="by-hand")).to_be_visible()
        assert not inside.complaints


# -- others ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_rights(tenant: Tenant) -> Iterator[None]:
    """Meanwhile they may only look."""
    path = f"{RBAC}/namespaces/{tenant.space.name}/rolebindings"
    bound = [one for one in tenant.space.api.list(path) if one["subjects"][0]["name"] == tenant.account]
    for one in bound:
        tenant.space.api.delete(f"{path}/{one['metadata']['name']}")
    tenant.bind("ClusterRole", "view")
    tenant.wait_may_not("patch", "trainingrun.dev", "trainingruns")
    yield
    tenant.bind("ClusterRole", "edit")
    tenant.wait_may("patch", "trainingrun.dev", "trainingruns")


@contextlib.contextmanager
def forwarded(space: Space, what: str, port: int) -> Iterator[str]:
    """`kubectl port-forward` to something in the namespace; gives the address on this machine."""
    command = ["kubectl", "port-forward", what, f":{port}"]
    with subprocess.Popen(command, env=space.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("Forwarding from "), said
        try:
            yield f"http://{said.split()[2]}"
        finally:
            process.terminate()


@contextlib.contextmanager
def other_site(target: str) -> Iterator[str]:
    """Somebody else's page on another port, which tries a request by script, a frame, and a form that looks like something else."""
    page = f"""<!doctype html><title>Prizes</title><p id="done"></p><iframe src="{target}"></iframe>
<form method="post" action="{target}/stop"><button>Win a prize</button></form>
<script>fetch("{target}/stop", {{method: "POST", credentials: "include", headers: {{"Content-Type": "text/plain"}}, body: "{{}}"}})
  .then((answer) => answer.text()).catch(() => "refused: no answer to read").then((text) => {{ done.textContent = text; }});</script>"""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()

"""A model is exported with its card, read back, and pushed to a hub (a small server on this machine)."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml

import robustsmooth
from robustsmooth.hub import push
from robustsmooth.models import load_file

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that creates a repository and commits small files."""

    def do_GET(self):
        self._answer({"sha": "0" * 40, "id": "me/net", "siblings": []})

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        text = self.rfile.read(length).decode()
        self.server.calls.append((self.path, self.headers.get("Authorization")))
        if self.server.status != 200:
            self._answer({"error": "not yours"}, self.server.status)
        elif self.path.endswith("/repos/create"):
            self._answer({"url": f"{self.server.address}/me/net", "name": "me/net"})
        elif "/preupload/" in self.path:
            asked = json.loads(text)["files"]
            self._answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
                    ]
                }
            )
        elif "/commit/" in self.path:
            for line in text.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._answer(
                {
                    "success": True,
                    "commitUrl": f"{self.server.address}/me/net/commit/{'1' * 40}",
                    "commitOid": "1" * 40,
                    "hookOutput": "",
                }
            )
        else:
            self._answer({})

    def _answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.calls, server.files, server.status = [], {}, 200
    server.address = f"http://127.0.0.1:{server.server_port}"
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra robustsmooth[hub]")
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_is_exported_with_a_card_read_back_and_pushed(call, hub, tmp_path):
    run, model = tmp_path / "run", tmp_path / "net"
    certify = "certify certificate.n0=20 certificate.n=200 data.subset.max=10"
    call("train", "trainer=cpu", "scale=smoke", f'+evaluate.certify="{certify}"', f"hydra.run.dir={run}")
    call("export", f"checkpoint={run}", "license=mit", "push=me/net", f"hydra.run.dir={model}")

    card = (model / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "mit"
    assert header["library_name"] == "robustsmooth"
    for fact in ("| method | Gaussian |", "| data | Digits |", "SmallCNN", "pixel units) | 0.25 |"):
        assert fact in card
    assert "n = 200, alpha = 0.001; 10 images of the test split" in card
    assert "95 % Clopper-Pearson intervals over images" in card
    assert 'robustsmooth.load("me/net")' in card

    trained, first = robustsmooth.load(model), robustsmooth.load(run)
    assert torch.equal(trained.network(IMAGES), first.network(IMAGES))
    assert trained.sigma == first.sigma == 0.25
    checkpoint = run / "checkpoints" / "last.ckpt"
    config = load_file(checkpoint)["robustsmooth"]["config"]
    config["model"]["checkpoint"] = str(checkpoint)  # what was exported
    assert trained.training == json.loads((model / "config.json").read_text()) == config

    names = {"model.safetensors", "config.json", "README.md"}
    assert {name: hub.files[name] for name in names} == {name: (model / name).read_bytes() for name in names}
    assert set(hub.files) == names
    assert all(token == "Bearer hf_stub" for _, token in hub.calls)


def test_a_hub_that_refuses_is_an_error_message(hub, tmp_path):
    hub.status = 403
    (tmp_path / "README.md").touch()
    with pytest.raises(
        ValueError, match=r"the hub did not accept me/net \(.*The exported files are still in the folder"
    ):
        push(tmp_path, "me/net")
    with pytest.raises(ValueError, match="`push` must be user/name, got 'net'"):
        push(tmp_path, "net")

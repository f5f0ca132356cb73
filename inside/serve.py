"""Can I type, and see it change? The page, live."""
import os
import re
import sys
import threading
import webbrowser

from cli.terminal import argument_errors, notice
from generation.checks import check_whole
from inside.explore import Explorer
from utils import load_encoder_hparams_and_params

PORT = 8124
TEXT = "First Citizen. Second Citizen. First"  # what the page begins with


def open_browser(address: str) -> bool:
    """Open a browser that has a window; False where there is none."""
    if sys.platform not in ("win32", "darwin") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    threading.Thread(target=browser.open, args=(address,), daemon=True).start()  # some wait for their window to close
    return True


def show_serve(text: str = TEXT, *, port: int = PORT, browser: bool = True, model_size: str | None = None,
               models_dir: str | None = None) -> None:
    """Open a live page in a browser: type a text and see everything change. Ctrl-C ends it.

    Args:
        text: the text to begin with.
        port: where the page is, on this machine alone; the next free one if it is taken.
        browser: open a browser; False only prints the address.
    """
    from inside.server import Server  # here: no other command needs http.server, which takes long to import

    with argument_errors():
        check_whole("port", port, 1, 65535, "the last port")
    token = os.environ.get("LENS_TOKEN")  # keeps the address the same from one start to the next
    if token is not None and not re.fullmatch("[A-Za-z0-9_-]{16,}", token):
        raise ValueError("LENS_TOKEN must be at least 16 letters, digits, - and _: whoever knows it can use the page")
    explorer = Explorer(load_encoder_hparams_and_params(model_size, models_dir))
    with argument_errors():
        explorer.see({"text": text})  # a text that is too long is refused here
    with Server(explorer, text, port, token) as server:
        try:
            if server.server_port != port:
                notice(f"port {port} is taken: using {server.server_port}")
            opened = browser and open_browser(server.address)
            notice(f"the page is {'open in a browser' if opened else 'ready'} at {server.address} (Ctrl-C ends it)")
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            notice("the server has stopped; saved pages are kept")

"""A browser of the admin's pages: cookies, and the tokens of forms."""

import http.client
import re
from http.cookies import Morsel, SimpleCookie
from urllib.parse import urlencode

from tests.stack import Stack

PASSWORD = "correct horse battery"


class Browser:
    """Keeps cookies as they come and sends them where their path allows."""

    def __init__(self, stack: Stack, **headers: str) -> None:
        self._port, self._headers = stack.port, headers
        self.jar: dict[str, Morsel[str]] = {}

    def open(self, method: str, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and text of the answer."""
        sent = "; ".join(f"{name}={c.value}" for name, c in self.jar.items() if path.startswith(c["path"]))
        body = urlencode(form) if form is not None else None
        headers = {**self._headers, "Cookie": sent, "Content-Type": "application/x-www-form-urlencoded"}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            for line in answer.headers.get_all("Set-Cookie", []):
                self.jar.update(SimpleCookie(line))
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def token(self, path: str) -> str:
        """What a form of this page must hold to be taken."""
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.open("GET", path)[1])
        assert found
        return found[1]

    def submit(self, path: str, **form: str) -> tuple[int, str]:
        """Status and text of the answer to the page's form."""
        return self.open("POST", path, {**form, "csrfmiddlewaretoken": self.token(path)})

    def login(self, username: str, password: str = PASSWORD) -> int:
        """The status of the login."""
        return self.submit("/admin/login/", username=username, password=password, next="/admin/")[0]

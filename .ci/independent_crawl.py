"""A crawler that shares nothing with tidegate: Python's html.parser and http.client, one connection.

usage: independent_crawl.py START PREFIX OUT

Follows <a href> and <area href> of HTML answers of status 2xx, relative to the first <base href>, without fragments,
where they begin with PREFIX, and redirects wherever they lead. Writes {url: {"status", "sha256"}}: the final status and
the hash of the final body.
"""

import hashlib
import http.client
import json
import sys
from collections import deque
from html.parser import HTMLParser
from urllib.parse import quote, urldefrag, urljoin, urlsplit

REDIRECTS = 10


class Links(HTMLParser):
    """The links of a document, as they were written, and its base."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.base = None
        self.found = []
        self.without_scripts = 0

    def handle_starttag(self, tag, attributes):
        if tag == "noscript":
            self.without_scripts += 1
        href = next((value for name, value in attributes if name == "href"), None)
        if href is None or self.without_scripts:
            return
        if tag == "base" and self.base is None:
            self.base = href
        elif tag in ("a", "area"):
            self.found.append(href)

    def handle_endtag(self, tag):
        if tag == "noscript" and self.without_scripts:
            self.without_scripts -= 1


def absolute(base, href):
    """The URL of a link; None for what is not http."""
    href = href.strip(" \t\r\n\f").replace("\t", "").replace("\r", "").replace("\n", "")
    try:
        url = urldefrag(urljoin(base, href)).url
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return None
    # What a browser percent-encodes, and what it leaves alone.
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~[]|^\\")
    query = quote(parts.query, safe="/%:@!$&()*+,;=-._~?[]|^\\{}`")
    return f"{parts.scheme}://{parts.netloc}{path}" + (f"?{query}" if parts.query else "")


class Client:
    """GET over one kept connection for each origin."""

    def __init__(self):
        self.connections = {}

    def get(self, url):
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        for last_try in (False, True):
            connection = self.connections.setdefault(parts.netloc, http.client.HTTPConnection(parts.netloc, timeout=30))
            try:
                connection.request("GET", target)
                answer = connection.getresponse()
                return answer.status, answer.headers, answer.read()
            except (http.client.HTTPException, OSError):
                del self.connections[parts.netloc]
                if last_try:
                    raise

    def follow(self, url):
        """The final URL, status, headers and body."""
        for _ in range(REDIRECTS + 1):
            status, headers, body = self.get(url)
            if status not in (301, 302, 303, 307, 308) or "Location" not in headers:
                break
            url = absolute(url, headers["Location"])
        return url, status, headers, body


def main(start, prefix, out):
    client, seen, queue, pages = Client(), {start}, deque([start]), {}
    while queue:
        url = queue.popleft()
        final, status, headers, body = client.follow(url)
        pages[url] = {"status": status, "sha256": hashlib.sha256(body).hexdigest()}
        if not 200 <= status < 300 or headers.get_content_type() != "text/html":
            continue
        parser = Links()
        parser.feed(body.decode("utf-8", "replace"))
        parser.close()
        base = urljoin(final, parser.base or "")
        for link in (absolute(base, href) for href in parser.found):
            if link and link.startswith(prefix) and link not in seen:
                seen.add(link)
                queue.append(link)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(pages, file, indent=0)


if __name__ == "__main__":
    main(*sys.argv[1:])

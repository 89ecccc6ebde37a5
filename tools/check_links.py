"""Follow every internal link of a folder of HTML pages; exits with 1 and lists those that lead nowhere.

    python tools/check_links.py _docs
"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    "The links and the anchors of a page."
    def __init__(self, file):
        super().__init__()
        self.links, self.anchors = [], {''}
        self.feed(file.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get('id'), attrs.get('name') if tag == 'a' else None}
        self.links += [attrs[key] for key in ('href', 'src') if attrs.get(key)]


def broken(site):
    "Return (page, link) for each internal link without a target, and how many were followed."
    pages = {file: Page(file) for file in site.resolve().rglob('*.html')}
    found, followed = [], 0
    for file, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc: continue
            target, followed = (file.parent/unquote(url.path)).resolve() if url.path else file, followed + 1
            if target.is_dir(): target = target/'index.html'
            if not target.is_file() or (target in pages and unquote(url.fragment) not in pages[target].anchors):
                found.append((file.relative_to(site.resolve()).as_posix(), link))
    return found, followed


if __name__ == '__main__':
    found, followed = broken(Path(sys.argv[1]))
    for page, link in found: print(f'{page}: {link} leads nowhere')
    print(f'{followed} internal links followed, {len(found)} broken')
    sys.exit(bool(found) or not followed)

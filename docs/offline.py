"""A hook of mkdocs: the one script that the theme would fetch from the network comes from this site instead.

The theme's `offline` plugin makes search work in a page that was opened from a file, by way of the package
iframe-worker, which it loads from a CDN. A copy of it lies under assets/vendor.
"""

from __future__ import annotations

from typing import Any

__all__ = ["on_post_page", "on_post_template"]

_FOREIGN = "https://unpkg.com/iframe-worker/shim"
_OWN = "assets/vendor/iframe-worker-shim.js"


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Point the page at the site's own copy."""
    return output.replace(_FOREIGN, "../" * page.url.count("/") + _OWN)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """The same for pages without a text of their own, such as 404.html."""
    return output_content.replace(_FOREIGN, _OWN)

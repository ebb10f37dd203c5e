"""The chart library, imported where it is used: it is an extra, and slow to load."""

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from batchnorm.records import import_optional

__all__ = ["browser_bundle", "for_page", "vl_convert"]


def vl_convert() -> ModuleType:
    """The package that renders Vega-Lite without a browser.

    Raises:
        NotInstalledError: If it is absent, with the extra that brings it.
    """
    return import_optional("vl_convert", "report: charts", "batchnorm[train]")


@functools.cache
def browser_bundle() -> str:
    """Vega and vega-embed as one script of 0.9 MB that can stand in a page."""
    bundle: str = vl_convert().javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Inside a script element only its own end tag could break out.
    return bundle.replace("</script", "<\\/script")


def for_page(spec: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A Vega-Lite chart compiled to Vega, to be filled in by the page's script.

    Compiling is a third of the work of drawing, and the page draws many charts from one specification.

    Args:
        spec: Without data, size and parameters; it may use the data ``rows`` and the parameters
            ``low``, ``high`` and ``seeds``.
        config: Vega-Lite configuration.
    """
    whole = {
        **spec,
        "width": "container",
        "height": "container",
        "autosize": {"type": "fit", "contains": "padding"},
        "data": {"name": "rows", "values": []},
        "params": [{"name": name, "value": 0} for name in ("low", "high", "seeds")],
        "config": config,
    }
    vega: dict[str, Any] = vl_convert().vegalite_to_vega(whole)
    return vega

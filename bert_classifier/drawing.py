"""Figures of matplotlib as inline SVG in the colours and fonts of a page.

Colours are those of the page, which knows light and dark: matplotlib draws in
stand-ins, which become CSS variables. Text stays text, so that the reader's
fonts, which have all scripts, show it.
"""

import html
import io
import re

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
import numpy as np

# Stand-ins by the names of the page's variables.
_COLOURS = {
  "ink": "#010101",
  "soft": "#020202",
  "line": "#030303",
  "accent": "#040404",
  "warm": "#050505",
}
INK, SOFT, LINE, ACCENT, WARM = _COLOURS.values()
STYLE = {
  "svg.fonttype": "none",
  "svg.hashsalt": "report",
  "text.parse_math": False,
  "font.family": "DejaVu Sans",  # comes with matplotlib; gives the widths
  "font.size": 10,
  "figure.facecolor": "none",
  "axes.facecolor": "none",
  "axes.labelsize": 10,
  "xtick.labelsize": 9,
  "ytick.labelsize": 9,
  "axes.edgecolor": LINE,
  "axes.labelcolor": SOFT,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": LINE,
  "grid.linewidth": 0.6,
  "text.color": INK,
  "xtick.color": SOFT,
  "ytick.color": SOFT,
  "xtick.major.size": 0,
  "ytick.major.size": 0,
  "legend.frameon": False,
  "legend.fontsize": 9,
}
_POINTS_AN_INCH = 72  # of the SVG's unit
# As wide as a telephone shows it, so that its letters can be read there.
NARROW, WIDE = 300, 640


def make_figure(height, width=NARROW):
  """Returns an empty Figure; height and width are in units of the SVG."""
  return Figure(
    figsize=(width / _POINTS_AN_INCH, height / _POINTS_AN_INCH),
    layout="constrained",
  )


def render(figure, prefix, alt):
  """Returns a figure as an SVG element.

  Args:
    figure: a Figure.
    prefix: goes before its ids, which are then the page's only ones.
    alt: its text.
  """
  writer = io.StringIO()
  FigureCanvasSVG(figure).print_svg(writer, metadata={"Date": None})
  svg = writer.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
  box = re.search(r'viewBox="[^"]*"', svg)[0]
  described = html.escape(alt, quote=True)
  head = f'<svg {box} role="img" aria-label="{described}">'
  svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
  svg = re.sub(r'\bid="', f'id="{prefix}', svg)
  svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
  # The page's font, of the size given here.
  svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
  svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
  for name, colour in _COLOURS.items():
    svg = svg.replace(colour, f"var(--{name})")
  return re.sub(r">\s+<", "><", svg)


def fill_cells(axes, x, y, alphas, colour):
  """Fills the cells of a grid, all of one shade by one path.

  Args:
    x, y: edges of columns and rows.
    alphas: opacity of the cells [rows, columns], 0 for none.
    colour: of all of them.
  """
  shades = np.round(alphas, 2)
  for shade in np.unique(shades[shades > 0]):
    rows, columns = np.nonzero(shades == shade)
    cells = [
      Path(
        [
          (x[column], y[row]),
          (x[column + 1], y[row]),
          (x[column + 1], y[row + 1]),
          (x[column], y[row + 1]),
          (x[column], y[row]),
        ],
        closed=True,
      )
      for row, column in zip(rows, columns)
    ]
    path = Path.make_compound_path(*cells)
    axes.add_patch(
      PathPatch(path, color=colour, alpha=float(shade), linewidth=0)
    )

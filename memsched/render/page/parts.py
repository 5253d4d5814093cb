"""What the HTML report is made of besides its data: the frame, the style sheet, and the script.

    FRAME     the elements of the page, with {names} for what `memsched.render.page.html` fills in
    STYLE     light and dark by the reader's preference; the canvas takes its colours from here too
    SCRIPT    state and words (`memsched.render.page.state`), the chart (`page_chart`), then what moves it and the
              tables (`page_tables`)

The page works without a connection, and its policy lets no other script run; see `memsched.render.page.html`.
"""

from __future__ import annotations

from memsched.render.page.chart import CHART
from memsched.render.page.state import STATE
from memsched.render.page.tables import TABLES

__all__ = ["FRAME", "SCRIPT", "STYLE"]

FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{script_hash}'; \
style-src '{style_hash}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="muted">{subtitle}</p>
</header>
<main>
{about}
<p class="controls" id="parts" hidden><label>Graph <select id="part"></select></label></p>
{cards}
<section aria-labelledby="memory-heading">
<h2 id="memory-heading">Memory over time</h2>
<p class="legend" aria-hidden="true"><span class="swatch given"></span>inputs, freed after their last reader
<span class="swatch held"></span>kept: outputs, and inputs that the caller holds
<span class="swatch passing"></span>temporary <span class="swatch scratch"></span>workspace
<span class="swatch chosen"></span>selected buffer <span class="swatch bound"></span>lower bound
<span class="swatch other"></span>the other plan{measured_legend}</p>
<div id="charts"></div>
<p class="muted">Wheel or <kbd>+</kbd> <kbd>−</kbd>: zoom. Drag or <kbd>Shift</kbd>+<kbd>←</kbd> <kbd>→</kbd>: pan.
<kbd>←</kbd> <kbd>→</kbd>: step. <kbd>↑</kbd> <kbd>↓</kbd>: next buffer of the step. <kbd>P</kbd>: peak.
<kbd>0</kbd> or double click: everything. Where several steps share a column of pixels, the highest is drawn.</p>
<noscript><p>The chart and the table of the order need JavaScript; what stands above and below does not.</p></noscript>
</section>
<section aria-labelledby="step-heading">
<h2 id="step-heading">At one step</h2>
<p id="step-words" aria-live="polite"></p>
<div class="scroll"><table id="live"></table></div>
<button id="more" type="button" hidden>Show all</button>
</section>
<section aria-labelledby="order-heading">
<h2 id="order-heading">The order</h2>
<p class="controls"><label>Plan <select id="which"></select></label>
<label>Find <input id="find" type="search" placeholder="op, kind or source line"></label>
<span id="found" class="muted" aria-live="polite"></span></p>
<div id="order" class="scroll" tabindex="0" role="region" aria-label="Table of the order">
<table><thead></thead><tbody></tbody></table></div>
</section>
<section aria-labelledby="proof-heading">
<h2 id="proof-heading">What is proved</h2>
{proofs}
</section>
{refusals}
</main>
<div id="tip" role="presentation" hidden></div>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f4f5f7; --ink: #1b1f24; --muted: #5b6470;
  --line: #d5d9df; --accent: #0b62c4; --given: #4f83b8; --held: #4a9a72; --passing: #d08a3c; --scratch: #8c8f96;
  --chosen: #c2187a; --bound: #b3261e; --other: #1b1f24; --measured: #7a1fd1; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --panel: #1d2127; --ink: #e6e9ee; --muted: #9aa4b1;
  --line: #353b45; --accent: #6fb1ff; --given: #5b8fc4; --held: #4f9d77; --passing: #c98640; --scratch: #747a84;
  --chosen: #ff5cb8; --bound: #ff8a80; --other: #ffffff; --measured: #d4a5ff; } }
* { box-sizing: border-box; } [hidden] { display: none !important; }
body { margin: 0 auto; max-width: 1500px; padding: 16px 24px 48px; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 20px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 15px; margin: 24px 0 6px; }
.muted { color: var(--muted); margin: 4px 0; } p { margin: 4px 0; max-width: 120ch; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0 0; }
.cards div { background: var(--panel); border-radius: 8px; padding: 8px 14px; min-width: 120px; }
dt { color: var(--muted); font-size: 12px; } dd { margin: 0; font-size: 18px; font-variant-numeric: tabular-nums; }
dd small { font-size: 12px; color: var(--muted); display: block; }
.legend { color: var(--muted); font-size: 12px; max-width: none; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 14px;
  vertical-align: -1px; }
.legend .swatch:first-child { margin-left: 0; }
.given { background: var(--given); } .held { background: var(--held); } .passing { background: var(--passing); }
.scratch { background: var(--scratch); } .chosen { background: var(--chosen); }
.bound, .other, .measured { height: 0; width: 16px; border-radius: 0; vertical-align: 4px; }
.bound { border-top: 2px dashed var(--bound); } .other { border-top: 2px solid var(--other); }
.measured { border-top: 2px solid var(--measured); }
figure { margin: 8px 0 12px; } figcaption { font-weight: 600; }
canvas { display: block; width: 100%; height: 260px; cursor: crosshair; touch-action: pan-y; border-radius: 4px; }
canvas:focus-visible, #order:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
kbd { border: 1px solid var(--line); border-radius: 3px; padding: 0 4px; font: 12px ui-monospace, monospace; }
.scroll { overflow: auto; border: 1px solid var(--line); border-radius: 6px; } #order { height: 420px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 2px 10px; height: 26px; line-height: 20px; white-space: nowrap;
  max-width: 46ch; overflow: hidden; text-overflow: ellipsis; }
th { position: sticky; top: 0; background: var(--panel); color: var(--muted); font-weight: 600; font-size: 12px; }
td.number, th.number { text-align: right; } td { border-top: 1px solid var(--line); }
.facts th { position: static; width: 1%; } ul { margin: 4px 0; padding-left: 20px; } li { overflow-wrap: anywhere; }
tr.here td { background: color-mix(in srgb, var(--accent) 18%, var(--ground)); }
tbody tr { cursor: pointer; } tr.spacer td { padding: 0; border: 0; }
button, select, input { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: 3px 8px; } button { margin-top: 8px; cursor: pointer; }
.controls { display: flex; flex-wrap: wrap; gap: 16px; align-items: center; margin-bottom: 8px; }
#find { width: 260px; }
#tip { position: fixed; z-index: 2; max-width: 560px; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: 6px 10px; pointer-events: none; box-shadow: 0 4px 16px #0004; overflow-wrap: anywhere; }
#tip[hidden] { display: none; }
"""

SCRIPT = STATE + CHART + TABLES

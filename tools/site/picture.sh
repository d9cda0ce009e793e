#!/bin/sh
# Draws docs/tutorials/report-page.png from the demo's folder, by chromium: the page's cases, and
# below them its curve. Usage: picture.sh DEMO
set -eu
program=$PWD/bin/alignedfusion picture=$PWD/docs/tutorials/report-page.png
cd "$1"
"$program" report --counterfactuals --allow-changed --study study none=study/runs/none_tr0_s1 itfusion=study/runs/itfusion_tr0_s1 --out page.html
cat > picture.html <<'END'
<body style="margin:0"><iframe src="page.html" style="border:0;width:1400px;height:830px;display:block"></iframe>
<iframe src="page.html#performance" style="border:0;border-top:1px solid #ccc;width:1400px;height:480px;display:block"></iframe></body>
END
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files --window-size=1400,1310 \
	--virtual-time-budget=6000 --screenshot="$picture" "file://$PWD/picture.html"

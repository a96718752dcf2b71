// Draws the curves with uPlot from the JSON in the page; colours and dashes are those of the legend in page.css.
"use strict";

(() => {
  const format = (value) => (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 10000) ? String(+value.toPrecision(4)) : value.toExponential(2).replace(/\.?0+e/, "e"));
  let plots = [];

  const observer = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const plot = plots.find((one) => one.root.parentElement === entry.target);
      const width = Math.floor(entry.contentRect.width);
      if (plot && width > 0 && width !== plot.width) plot.setSize({ width, height: plot.height });
    }
  });

  const draw = (figure, chart) => {
    const box = figure.querySelector(".plot");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const lines = [...figure.querySelectorAll(".legend .line")].map((line) => getComputedStyle(line));
    const values = [...figure.querySelectorAll(".legend .value")];
    const last = values.map((item) => item.textContent);
    const axis = { stroke: colour("--soft"), font, grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const legend = (plot) => {
      const point = plot.cursor.idx;
      values.forEach((item, index) => {
        const value = point == null ? null : plot.data[index + 1][point];
        item.textContent = point == null ? last[index] : value == null ? "—" : `${format(value)} at ${plot.data[0][point]}`;
      });
    };
    const isSparse = chart.data[0].length < 60;
    const options = {
      width: Math.max(200, Math.floor(box.clientWidth)),
      height: Math.floor(box.clientHeight),
      legend: { show: false },
      scales: { x: { time: false } },
      axes: [
        { ...axis, size: 32, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en") : "")) },
        { ...axis, size: 62, values: (_, ticks) => ticks.map(format) },
      ],
      series: [
        {},
        ...chart.series.map((series, index) => ({
          label: series.label,
          stroke: lines[index].stroke,
          width: 2,
          dash: lines[index].strokeDasharray === "none" ? undefined : lines[index].strokeDasharray.split(/[ ,]+/).map(parseFloat),
          spanGaps: true,
          points: { show: isSparse, size: 5, fill: lines[index].stroke },
        })),
      ],
      hooks: { setCursor: [legend] },
    };
    box.replaceChildren();
    const plot = new uPlot(options, chart.data, box);
    plots.push(plot);
    observer.observe(box);
  };

  const drawAll = () => {
    observer.disconnect();
    for (const plot of plots) plot.destroy();
    plots = [];
    const source = document.getElementById("curves-data");
    if (!source) return;
    const charts = JSON.parse(source.textContent);
    document.querySelectorAll("[data-charts] .chart").forEach((figure, index) => draw(figure, charts[index]));
  };

  document.addEventListener("live", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
})();

"use strict";
// Draws the two interactive charts from the JSON beside it. Whatever a run wrote is
// shown as text, never parsed as HTML.
(function () {
  const run = JSON.parse(document.getElementById("run").textContent);
  const { WINNER, MEMBER, MEDIAN, INK, LINES } = run.colours;
  const generations = run.fitness.length, members = run.members;
  // Of thousands of members only some are here, which stand at their slots again.
  const spread = (list) => list.map((row, g) => {
    const whole = [];
    run.slots[g].forEach((slot, i) => { whole[slot] = row[i]; });
    return whole;
  });
  for (const name of ["fitness", "parents", "fresh", "operations", "places", "founders", "survives"]) {
    run[name] = spread(run[name]);
  }
  for (const name of Object.keys(run.hparams)) run.hparams[name] = spread(run.hparams[name]);

  function ancestry(generation, slot) {
    const line = [[generation, slot]];
    while (generation > 0 && !run.fresh[generation][slot]) {
      slot = run.parents[generation][slot];
      generation -= 1;
      line.unshift([generation, slot]);
    }
    return line;
  }

  function show(value) {
    if (typeof value !== "number") return String(value);
    const small = value !== 0 && Math.abs(value) < 1e-3;
    return small ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  }

  function rows(generation, slot) {
    const fitness = run.fitness[generation][slot];
    const parent = run.parents[generation][slot];
    let origin = run.operations[generation][slot];
    if (origin === "copied") origin = "copied from member " + parent;
    const list = [["fitness", fitness === null ? "failed" : fitness.toFixed(4)],
                  ["weights", origin]];
    for (const [name, values] of Object.entries(run.hparams)) {
      list.push([name, show(values[generation][slot])]);
    }
    return list;
  }

  function table(generation, slot) {
    const box = document.createElement("div");
    const title = box.appendChild(document.createElement("b"));
    title.textContent = "member " + slot + " of generation " + generation;
    const body = box.appendChild(document.createElement("table"));
    for (const [name, value] of rows(generation, slot)) {
      const row = body.appendChild(document.createElement("tr"));
      row.appendChild(document.createElement("td")).textContent = name;
      const cell = row.appendChild(document.createElement("td"));
      cell.className = "number";
      cell.textContent = value.length > 60 ? value.slice(0, 59) + "…" : value;
    }
    return box;
  }

  // In the quarter of the chart away from the member, which it must not cover.
  function aside(point, item, node, rect, size) {
    return [0, 1].map((axis) => {
      const room = size.viewSize[axis] - size.contentSize[axis];
      return point[axis] < size.viewSize[axis] / 2 ? Math.max(room, 0) : 0;
    });
  }

  const tooltip = {
    trigger: "item", confine: true, transitionDuration: 0, position: aside,
    className: "hover", padding: [4, 8],
    formatter: (item) => item.data && item.data.length === 4
      ? table(item.data[2], item.data[3]) : "",
  };
  const places = {
    fitness: (g, s) => run.fitness[g][s],
    lineage: (g, s) => run.places[g][s],
  };

  // Pairs of parent and child, a gap after each.
  function edges(place, keep) {
    const data = [];
    for (let g = 1; g < generations; g += 1) {
      for (const s of run.slots[g]) {
        if (run.fresh[g][s] || !keep(g, s)) continue;
        const before = place(g - 1, run.parents[g][s]), after = place(g, s);
        if (before === null || after === null) continue;
        data.push([g - 1, before], [g, after], [g, NaN]);
      }
    }
    return data;
  }

  function lines(data, colour, width, opacity, z) {
    return { type: "line", data, silent: true, progressive: 0, symbol: "none", animation: false, z,
             lineStyle: { color: colour, width, opacity }, emphasis: { disabled: true },
             tooltip: { show: false } };
  }

  function points(place, size) {
    const data = [];
    for (let g = 0; g < generations; g += 1) {
      for (const s of run.slots[g]) {
        const y = place(g, s);
        if (y !== null) data.push([g, y, g, s]);
      }
    }
    return { id: "members", type: "scatter", data, symbolSize: size, animation: false, z: 5,
             progressive: 0, itemStyle: { color: MEMBER, opacity: size < 9 ? 0.5 : 0.75 }, cursor: "pointer",
             emphasis: { itemStyle: { color: INK, opacity: 1 } } };
  }

  function chosen(place, line) {
    return { id: "chosen", type: "line", animation: false, silent: true, z: 6,
             data: line.map(([g, s]) => [g, place(g, s)]), symbol: "circle",
             symbolSize: (value, item) => item.dataIndex === line.length - 1 ? 12 : 4,
             showAllSymbol: true, lineStyle: { color: WINNER, width: 3 },
             itemStyle: { color: WINNER }, tooltip: { show: false } };
  }

  function axis(name, extra) {
    return Object.assign({ type: "value", name, nameLocation: "middle", nameGap: 28,
      minInterval: 1, axisLine: { show: true }, splitLine: { lineStyle: { color: "#eef1f3" } },
      nameTextStyle: { color: INK }, axisLabel: { color: INK } }, extra);
  }

  function chart(id, series, y) {
    const node = document.getElementById(id);
    const drawn = echarts.init(node, null, { renderer: "canvas" });
    drawn.setOption({
      animation: false, tooltip, series,
      grid: { left: y.show === false ? 16 : 62, right: 18, top: 14, bottom: 46 },
      xAxis: axis("generation", { min: -0.5, max: generations - 0.5,
        axisLabel: { color: INK,
                     formatter: (v) => Number.isInteger(v) ? String(v) : "" } }),
      yAxis: axis(y.name, y),
    });
    drawn.on("click", (item) => {
      if (!item.data || item.data.length !== 4) return;
      select(item.data[2], item.data[3]);
      // The member is still chosen after the page has reloaded itself.
      location.replace("#" + item.data[2] + "-" + item.data[3]);
    });
    new ResizeObserver(() => drawn.resize()).observe(node);
    return drawn;
  }

  const size = run.slots.flat().length > 2000 ? 5 : 9;
  const charts = {};
  charts.fitness = chart("fitness", [
    lines(edges(places.fitness, () => true), MEMBER, 0.7, 0.5, 1),
    points(places.fitness, size),
    lines(run.median.map((value, g) => [g, value === null ? NaN : value]), MEDIAN, 2, 1, 4),
    chosen(places.fitness, []),
  ], { name: "fitness on validation data", nameGap: 44, min: run.range[0],
       max: run.range[1], minInterval: 0,
       axisLabel: { color: INK, showMinLabel: false, showMaxLabel: false, formatter: (v) => String(Number(v.toPrecision(3))) } });

  const tree = [];
  const colourOf = new Map(run.ranked.map((name, i) => [name, LINES[i]]));
  for (const survives of [false, true]) {
    for (const name of [...run.ranked, null]) {
      const data = edges(places.lineage, (g, s) => {
        const founder = run.founders[g][s];
        return run.survives[g][s] === survives &&
          (name === null ? !colourOf.has(founder) : founder === name);
      });
      const colour = name === null ? MEMBER : colourOf.get(name);
      if (data.length) {
        tree.push(lines(data, colour, survives ? 1.8 : 0.8, survives ? 1 : 0.4, survives ? 2 : 1));
      }
    }
  }
  charts.lineage = chart("lineage", [...tree, points(places.lineage, size < 9 ? 3 : size),
    chosen(places.lineage, [])], { name: "", show: false, min: -1, max: members });

  function select(generation, slot) {
    const line = ancestry(generation, slot);
    for (const name of Object.keys(charts)) {
      charts[name].setOption({ series: [chosen(places[name], line)] });
    }
    const panel = document.getElementById("member");
    const first = line[0];
    const story = document.createElement("p");
    story.className = "quiet";
    const founder = "member " + first[1] + " of generation " + first[0];
    story.textContent = line.length > 1
      ? "Its line, in orange, goes back to " + founder + "."
      : "It began with new weights.";
    panel.replaceChildren(table(generation, slot), story);
    return line;
  }
  const asked = location.hash.match(/^#(\d+)-(\d+)$/);
  const isThere = asked && asked[1] < generations && run.slots[asked[1]].includes(Number(asked[2]));
  select(...(isThere ? [Number(asked[1]), Number(asked[2])] : run.winner));

  const seconds = Number(document.body.dataset.reload);
  if (seconds) {
    setInterval(() => {
      // A reader who points at a chart would lose what it shows.
      if (!document.querySelector(".chart:hover")) location.reload();
    }, 1000 * seconds);
  }
  window.jepbtReport = { charts, select, places, run };
}());

"use strict";
(() => {
  const settings = JSON.parse(document.body.dataset.settings);
  const $ = (id) => document.getElementById(id);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const num = (value, digits = 1) =>
    value == null ? "–" : (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const mib = (value) => (value == null ? "–" : Math.abs(value) >= 1024 ? `${num(value / 1024, 2)} GiB` : `${num(value)} MiB`);
  const clock = (unix) => new Date(unix * 1000).toLocaleTimeString("en-GB");
  const span = (s) => {
    if (s == null) return "";
    if (s < 120) return `${num(s, 0)} s`;
    if (s < 7200) return `${num(s / 60, 0)} min`;
    return `${num(s / 3600, 1)} h`;
  };
  let token = sessionStorage.getItem("memguard-token") || "";

  const ask = async (path, options = {}) => {
    const headers = { ...(options.headers || {}) };
    if (token) headers.authorization = `Bearer ${token}`;
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.ok) return response;
    let words = `${response.status} ${response.statusText}`;
    try { words = (await response.json()).detail || words; } catch { /* no problem object */ }
    throw Object.assign(new Error(words), { status: response.status });
  };
  const api = (path, options) => ask(`${settings.api}/${path}`, options);

  const text = (node, value) => { if (node.textContent !== value) node.textContent = value; };
  const row = (cells) => {
    const tr = document.createElement("tr");
    for (const cell of cells) {
      const td = document.createElement("td");
      if (cell && cell.nodeType) td.append(cell);
      else if (typeof cell === "number") { td.className = "n"; td.textContent = num(cell, Number.isInteger(cell) ? 0 : 1); }
      else td.textContent = cell ?? "–";
      tr.append(td);
    }
    return tr;
  };
  const number = (words) => { const td = document.createElement("span"); td.textContent = words; td.className = "num"; return td; };
  const fill = (id, rows, empty) => {
    const body = $(id), columns = body.previousElementSibling.rows[0].cells.length;
    if (!rows.length) {
      const tr = document.createElement("tr"), td = document.createElement("td");
      td.colSpan = columns; td.className = "quiet"; td.textContent = empty; tr.append(td); rows = [tr];
    }
    body.replaceChildren(...rows);
    for (const cell of body.querySelectorAll(".num")) cell.parentNode.className = "n";
  };
  const notice = (words) => { $("notice").hidden = !words; text($("notice"), words || ""); };

  // --- charts ---------------------------------------------------------------------------------------------------
  const axis = (more = {}) => ({ stroke: css("--quiet"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif", ...more });
  const hours = { space: 74, values: (u, ticks) => ticks.map((t) => new Date(t * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: ticks.length > 1 && ticks[1] - ticks[0] < 60 ? "2-digit" : undefined })) };
  const sizes = { size: 62, incrs: Array.from({ length: 30 }, (_, n) => 2 ** (n - 2)), values: (u, ticks) => ticks.map((t) => (t >= 1024 ? `${num(t / 1024, t % 1024 ? 1 : 0)} G` : `${num(t, 0)} M`)) };
  const frame = (host) => ({ width: Math.max(120, host.clientWidth), height: host.clientHeight });
  const common = { cursor: { show: false }, legend: { show: false }, padding: [10, 10, 0, 0] };

  const recent = (u, low, high) => [Math.min(low ?? 0, (high ?? 1) - 60), high ?? 1];

  let rungs = {}, limit = null, span_s = 900;
  let past = { t: [], used: [], level: [] };
  const levels = { OK: 0, ELEVATED: 1, WARNING: 2, CRITICAL: 3, EMERGENCY: 4 };
  const charts = {};

  const shade = (u) => {
    const { ctx, bbox } = u, t = past.t;
    ctx.save();
    ctx.fillStyle = css("--shade");
    let from = null;
    const step = t.length > 1 ? Math.max(1, t[t.length - 1] - t[t.length - 2]) : 1;
    t.forEach((at, i) => {
      if (past.level[i] > 0 && from === null) from = at;
      const end = from !== null && (past.level[i] === 0 || i === t.length - 1);
      if (end) {
        const x0 = Math.max(bbox.left, u.valToPos(from, "x", true)), x1 = Math.min(bbox.left + bbox.width, u.valToPos(past.level[i] ? at + step : at, "x", true));
        if (x1 > x0) ctx.fillRect(x0, bbox.top, Math.max(2, x1 - x0), bbox.height);
        from = null;
      }
    });
    ctx.restore();
  };
  const lines = (u) => {
    if (limit == null) return;
    const { ctx, bbox } = u, ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "left"; ctx.textBaseline = "alphabetic";
    let last = -1e9;
    const marks = [["limit", 1, "--limit"], ...Object.entries(rungs).sort((a, b) => b[1] - a[1]).map(([name, at]) => [name.toLowerCase(), at, "--rung"])];
    for (const [name, at, colour] of marks) {
      const y = Math.round(u.valToPos(limit * at, "y", true));
      if (y < bbox.top - 1 || y > bbox.top + bbox.height) continue;
      ctx.strokeStyle = ctx.fillStyle = css(colour);
      ctx.lineWidth = (name === "limit" ? 2.5 : 1) * ratio;
      ctx.setLineDash(name === "limit" ? [] : [6 * ratio, 5 * ratio]);
      ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
      if (y - last > 13 * ratio) { ctx.fillText(name, bbox.left + 6 * ratio, y + 12 * ratio); last = y; }
    }
    ctx.restore();
  };

  const build = () => {
    for (const chart of Object.values(charts)) chart.destroy();
    const memory = $("memory-chart"), holders = $("holders-chart"), admission = $("admission-chart");
    charts.memory = new uPlot({
      ...common, ...frame(memory),
      scales: { x: { range: () => { const now = Date.now() / 1000; return [Math.max(now - span_s, Math.min(now - 60, past.t[0] || 0)), now]; } }, y: { range: (u, low, high) => [0, Math.max(1, (limit || 0) * 1.04, (high || 0) * 1.05)] } },
      axes: [axis(hours), axis(sizes)],
      series: [{}, { stroke: css("--used"), fill: css("--used-fill"), width: 2, points: { show: false }, spanGaps: false }],
      hooks: { drawClear: [shade], draw: [lines] },
    }, [[], []], memory);
    const colours = [0, 1, 2, 3, 4, 5, 6].map((n) => css(`--s${n}`));
    charts.holders = new uPlot({
      ...common, ...frame(holders),
      scales: { x: { range: recent }, y: { range: (u, low, high) => [0, Math.max(1, (high || 0) * 1.05)] } },
      axes: [axis(hours), axis(sizes)],
      series: [{}, ...[...colours].reverse().map((colour) => ({ stroke: colour, fill: colour, width: 0, points: { show: false } }))],
    }, [[], ...colours.map(() => [])], holders);
    charts.admission = new uPlot({
      ...common, ...frame(admission),
      scales: { x: { range: recent }, y: { range: (u, low, high) => [0, Math.max(1, (high || 0) * 1.1)] } },
      axes: [axis(hours), axis({ size: 62 })],
      series: [{}, { stroke: css("--used"), fill: css("--used-fill"), width: 2, points: { show: false } }, { stroke: css("--limit"), width: 2, points: { show: false } }],
    }, [[], [], []], admission);
    draw();
  };

  const seen = [], kept = 900;
  const names = [];
  const draw = () => {
    charts.memory.setData([past.t, past.used]);
    const t = seen.map((each) => each.t);
    // The largest lie at the bottom: drawn last, in front of the sums that they are part of.
    const stacks = names.map((_, place) => seen.map((each) => names.slice(0, place + 1).reduce((sum, name) => sum + (each.by[name] || 0), 0)));
    while (stacks.length < 7) stacks.push(t.map(() => null));
    charts.holders.setData([t, ...[...stacks].reverse()]);
    charts.admission.setData([t, seen.map((each) => each.served), seen.map((each) => each.refused)]);
  };
  const colourOf = (name) => { const at = names.indexOf(name); return `var(--s${at < 0 ? 6 : at})`; };

  // --- what comes -----------------------------------------------------------------------------------------------
  let before = null, agentsAt = 0;
  const show = (it) => {
    if (before && it.at === before.at) return;  // a new answer begins with the frame that the last one ended with
    const m = it.memory;
    limit = m.limit_mb; rungs = m.rungs;
    const level = $("level");
    if (level.dataset.level !== m.level) { level.dataset.level = m.level; text(level, m.running ? m.level : "guard not running"); }
    document.title = `${m.level === "OK" ? "" : `${m.level} · `}${m.limit_mb ? `${num(m.pressure * 100, 0)} % · ` : ""}memguard`;
    text($("used"), mib(m.used_mb));
    text($("used-of"), m.limit_mb == null ? "nothing limits this process" : `${num(m.pressure * 100, 0)} % of ${mib(m.limit_mb)}: ${m.limit_source}`);
    text($("headroom"), mib(m.headroom_mb));
    text($("forecast"), m.forecast_s == null ? "not in sight at the present rate" : `in ${span(m.forecast_s)} at the present rate`);
    text($("served"), `${num(m.served_requests, 0)}`);
    text($("refused"), `served; ${num(m.refused_requests, 0)} refused, ${num(m.waiting_requests, 0)} waiting`);
    text($("verdict-kind"), it.verdict.kind);
    text($("verdict-sure"), it.verdict.kind === "unknown" ? "not enough seen yet" : `sure to ${num(it.verdict.confidence * 100, 0)} %`);
    text($("verdict"), it.verdict.words);
    if (m.alerts.length) notice(m.alerts.join(" · ")); else notice(m.blind ? "Readings fail: the level is the one the rules set for that case." : "");

    const last = past.t[past.t.length - 1] || 0;
    if (m.used_mb != null && it.at - last >= span_s / 600) { past.t.push(it.at); past.used.push(m.used_mb); past.level.push(levels[m.level]); }
    const old = past.t.findIndex((at) => at > it.at - span_s * 1.1);
    if (old > 0) for (const each of Object.values(past)) each.splice(0, old);

    const rows = it.consumers;
    if (!names.length || rows.slice(0, 4).some((each) => !names.includes(each.name) && each.share > 0.03)) {
      names.splice(0, names.length, ...rows.filter((each) => each.memory_mb > 0).slice(0, 7).map((each) => each.name));
    }
    const by = {};
    rows.forEach((each) => { by[each.name] = Math.max(0, each.memory_mb); });
    const gone = before ? Math.max(0.1, it.at - before.at) : 1;
    seen.push({
      t: it.at, by,
      served: before ? Math.max(0, (m.served_requests - before.memory.served_requests) / gone) : 0,
      refused: before ? Math.max(0, (m.refused_requests - before.memory.refused_requests) / gone) : 0,
    });
    if (seen.length > kept) seen.shift();
    before = it;
    draw();
    $("memory-chart").setAttribute("aria-label", `Memory over the last ${span(span_s)}: now ${mib(m.used_mb)}${m.limit_mb ? ` of ${mib(m.limit_mb)}` : ""}, level ${m.level}`);
    $("holders-chart").setAttribute("aria-label", `Holders, stacked: ${rows.slice(0, 3).map((each) => `${each.name} ${mib(each.memory_mb)}`).join(", ")}`);
    $("admission-chart").setAttribute("aria-label", `Requests a second: ${num(seen[seen.length - 1].served)} served, ${num(seen[seen.length - 1].refused)} refused`);

    fill("holders", rows.map((each) => {
      const name = document.createElement("span"), dot = document.createElement("span");
      dot.className = "dot"; dot.style.background = colourOf(each.name);
      name.append(dot, each.name);
      return row([name, each.kind + (each.estimated ? " (est.)" : ""), number(num(each.memory_mb)), number(`${num(each.share * 100)} %`)]);
    }), "nothing is known yet");
    text($("incident"), it.incident ? `Incident since ${clock(it.incident.since)}: up to ${it.incident.peak_level}, ${it.incident.attempts} attempts bought ${mib(it.incident.bought_mb)}, ${it.incident.refusals} refused` : "No incident now.");
    $("incident-row").hidden = !it.incidents;
    fill("reliefs", it.reliefs.map((each) => row([clock(each.at), each.error ? `${each.name}: ${each.error}` : each.name, number(num(each.bought_mb)), number(num(each.cost_ms))])), "nothing was needed yet");
    const facts = { Served: m.served_requests, Running: m.running_requests, Waiting: m.waiting_requests, Refused: m.refused_requests, "Promised MiB": m.promised_mb, Websockets: it.sockets };
    $("admission").replaceChildren(...Object.entries(facts).map(([name, value]) => {
      const box = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = name; dd.textContent = num(value, Number.isInteger(value) ? 0 : 1); box.append(dt, dd); return box;
    }));
    fill("pools", it.pools.map((each) => row([each.name, number(`${each.size} of ${each.max_size}`), each.running, number(num(each.memory_mb)), number(each.fits == null ? "–" : num(each.fits, 0))])), "no pool is registered");
    if (it.pools.length && it.at - agentsAt > 4) { agentsAt = it.at; agents(); }
    else if (!it.pools.length) fill("agents", [], "no agents");
    $("done").replaceChildren(...it.done.map((each) => { const li = document.createElement("li"); li.textContent = `${clock(each.at)} ${each.what}: ${each.text} (${each.who})`; return li; }));
    $("acting-off").hidden = it.acts;
    for (const button of document.querySelectorAll(".acting")) if (!button.dataset.busy) button.disabled = !it.acts;
  };
  const agents = async () => {
    try {
      const found = (await (await api("monitoring/agents/memory?limit=8")).json()).agents;
      fill("agents", found.map((each) => row([each.id, each.orphan ? `${each.state}, orphan` : each.state, number(num(each.memory_mb)), number(num(each.belief_size_kb)), number(num(each.idle_s, 0))])), "no agents");
    } catch { /* the next one */ }
  };
  const history = async () => {
    try {
      const wanted = span_s;
      const found = (await (await api(`monitoring/metrics/memory?duration=${wanted}`)).json()).metrics;
      if (wanted !== span_s) return;
      past = { t: [], used: [], level: [] };
      for (const each of found) { past.t.push(Date.parse(each.timestamp) / 1000); past.used.push(each.value); past.level.push(levels[each.level] || 0); }
      draw();
    } catch { /* the stream tells what is wrong */ }
  };

  let wait = 1000, turn = 0, abort = null, linked = false;
  const listen = async () => {
    const mine = ++turn;
    if (abort) abort.abort();
    const own = (abort = new AbortController());
    let watch = null, ended = false;
    const alive = () => { clearTimeout(watch); watch = setTimeout(() => own.abort(), 15000); };
    try {
      alive();
      const response = await api("monitoring/stream", { signal: own.signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      wait = 1000;
      if (!linked) { linked = true; text($("link"), "live"); notice(""); await history(); }
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (mine !== turn) return;
        if (done) { ended = true; break; }
        alive();
        rest += value;
        const parts = rest.split("\n\n");
        rest = parts.pop();
        const last = parts.filter((part) => part.includes("data: ")).pop();
        if (last) show(JSON.parse(last.slice(last.indexOf("data: ") + 6)));
      }
    } catch (error) {
      if (mine !== turn) return;
      linked = false;
      if (error.status === 401 || error.status === 403) {
        notice(error.message); text($("level"), "locked"); $("level").dataset.level = "LOCKED"; text($("link"), "give the token to look"); wait = 15000;
      } else {
        text($("link"), `${error.status ? error.message : "connection lost"}; trying again in ${num(wait / 1000, 0)} s`); $("level").dataset.level = "NONE"; text($("level"), "no connection");
      }
    } finally { clearTimeout(watch); }
    if (ended) { listen(); return; }  // each answer is short, and asked for again
    setTimeout(() => { if (mine === turn) listen(); }, wait);
    wait = Math.min(15000, wait * 2);
  };

  // --- what is done ---------------------------------------------------------------------------------------------
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = $("token").value.trim();
    if (token) sessionStorage.setItem("memguard-token", token); else sessionStorage.removeItem("memguard-token");
    $("token").value = "";
    $("token").placeholder = token ? "in use for this tab" : "for acting, or from afar";
    $("level").dataset.level = "NONE"; wait = 1000; linked = false; before = null;
    listen();
  });
  if (token) $("token").placeholder = "in use for this tab";
  for (const button of document.querySelectorAll("[data-span]")) button.addEventListener("click", () => {
    span_s = Number(button.dataset.span);
    for (const other of document.querySelectorAll("[data-span]")) other.setAttribute("aria-pressed", String(other === button));
    history();
  });
  const said = (it) => {
    const parts = [];
    if (it.bought_mb != null) parts.push(`${mib(it.bought_mb)} came back`);
    if (it.freed_mb != null && it.bought_mb == null) parts.push(`${mib(it.freed_mb)} came back`);
    if (it.entries != null) parts.push(`${it.entries} entries went`);
    if (it.objects != null) parts.push(`${it.objects} objects, pause ${num(it.pause_s * 1000)} ms`);
    if (it.count != null) parts.push(`${it.count} orphans retired`);
    return parts.join(", ") || "done";
  };
  for (const button of document.querySelectorAll("[data-act]")) button.addEventListener("click", async () => {
    const words = button.dataset.words || (button.dataset.words = button.textContent);
    if (button.dataset.sure && !button.dataset.armed) {
      button.dataset.armed = "1"; button.textContent = button.dataset.sure;
      setTimeout(() => { delete button.dataset.armed; button.textContent = words; }, 5000);
      return;
    }
    button.dataset.busy = "1"; button.disabled = true; text($("act-state"), `${words} …`);
    try {
      const path = button.dataset.act === "clear" ? settings.clear : `${settings.api}/${button.dataset.act}`;
      text($("act-state"), `${words}: ${said(await (await ask(path, { method: "POST" })).json())}`);
    } catch (error) { text($("act-state"), `${words}: ${error.message}`); }
    delete button.dataset.busy; delete button.dataset.armed; button.disabled = false; button.textContent = words;
  });
  $("report").addEventListener("click", async () => {
    const button = $("report");
    button.dataset.busy = "1"; button.disabled = true; text($("report-state"), "looking for 5 s …");
    try {
      const page = await (await api("monitoring/memory/dump?seconds=5&format=html", { method: "POST" })).blob();
      const found = new DOMParser().parseFromString(await page.text(), "text/html");
      for (const each of found.querySelectorAll("style, script, title, svg")) each.remove();
      $("report-text").textContent = (found.body.innerText || found.body.textContent).replace(/\n\s*\n+/g, "\n").trim();
      $("report-text").hidden = $("report-page").hidden = false;
      $("report-link").href = URL.createObjectURL(page);
      text($("report-state"), "done");
      $("report-text").focus();
    } catch (error) { text($("report-state"), error.message); }
    delete button.dataset.busy; button.disabled = false;
  });

  $("incident-report").addEventListener("click", async () => {
    const link = $("incident-link");
    text($("incident-state"), "…");
    try {
      const page = await (await api("monitoring/incidents/report?format=html")).blob();
      if (link.href) URL.revokeObjectURL(link.href);
      link.href = URL.createObjectURL(page);
      link.hidden = false;
      text($("incident-state"), `as of ${clock(Date.now() / 1000)}`);
      link.focus();
    } catch (error) { text($("incident-state"), error.message); }
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
  let resized = null;
  new ResizeObserver(() => {
    clearTimeout(resized);
    resized = setTimeout(() => { for (const [name, chart] of Object.entries(charts)) chart.setSize(frame($(`${name}-chart`))); }, 80);
  }).observe($("main"));
  build();
  listen();
})();

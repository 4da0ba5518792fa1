// Runs before the page is drawn, so that a chosen theme does not flash. Without a choice, the system decides.
try {
  const theme = localStorage.getItem("sweeper-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage may be blocked; the page works without */ }

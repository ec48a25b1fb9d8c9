// Before anything is drawn, so that the page does not flash.
{
  const theme = localStorage.getItem("halve.theme");
  if (theme) document.documentElement.dataset.theme = theme;
}

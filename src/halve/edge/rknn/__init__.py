"""Files for Rockchip's NPUs, made by the vendor's toolkit in an environment and a process of its own."""

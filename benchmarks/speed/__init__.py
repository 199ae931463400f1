"""How fast softguard is beside what people use today: contenders in turn in one process, medians of ratios."""

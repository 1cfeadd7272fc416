"""The evaluation report: one HTML file that opens from disk.

content.py    what it tells, as its caller fills it in
volumes.py    the scans to look at, small enough to lie in the file
report.py     write(path, content)
*.js, *.css   ours, put into the file as they are; vendor/ holds NiiVue, which niivue_view.js alone knows
"""

"""The page of `medseg serve`: files as a browser gets them, no build, nothing from elsewhere.

    index.html, style.css, icon.svg
    start.js      sign in, send a scan, what a person is told
    service.js    what is said to the service
    jobs.js       the list of jobs and their progress
    viewer.js     three planes, legend, warnings, downloads
    volume.js     the file of pipelines/pages/scan_view.py, and its sections as pixels

The policy that pipelines/service/page_files.py sends allows these files and nothing inline, so text from a scan cannot
run; text becomes part of the page as text only.
"""

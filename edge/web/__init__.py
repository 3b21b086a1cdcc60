"""The base of the site's console and the centre's pages: server, sign-in, headers, style, plots.

    server     uvicorn in a thread; `http`: limits on every wait, length and count
    listener   limits on the connections of each caller (edge.network.shares)
    guard      checks each request: host name, user, CSRF token; adds the headers of each answer
    endpoints  which role a page needs
    hosts      host names that are ours, addresses that are trusted
    throttle   limits on attempts at passwords and on lines in a log
    accounts   names, roles, last days, locks; `passwords`: which are accepted, and their hashes
    sessions   signed-in browsers, in memory: a restart ends every session
    login      banner, sign-in, the first account, the user's password; `people`: all accounts
    pages      Jinja templates, one layout, one style sheet, nothing from other servers
    plot       small plots as SVG

The package does not depend on a catalog: the application gives the store of its accounts (`accounts.Accounts`).
"""

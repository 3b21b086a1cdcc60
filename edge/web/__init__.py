"""What the pages of a site's console and of the central office have in common: server, sign-in, headers, style, plots.

    server     uvicorn in a thread, with every wait, length and count bounded
    guard      one look at each request: host name, who asks, CSRF, roles; and the headers of each answer
    accounts   names, roles, passwords (argon2), and how fast they may be guessed
    sessions   who is signed in, in memory: a restart ends every session
    pages      Jinja templates, one layout, one style sheet; nothing comes from elsewhere
    plot       small plots as SVG

Nothing here knows a catalog: accounts lie where the application says (`accounts.Accounts`).
"""

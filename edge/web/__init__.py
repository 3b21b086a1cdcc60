"""What the pages of a site's console and of the central office have in common: server, sign-in, headers, style, plots.

    server     uvicorn in a thread, with every wait, length and count bounded
    guard      one look at each request: host name, who asks, CSRF, roles; and the headers of each answer
    hosts      which names are ours, who is trusted
    listener   how many connections each caller may have (edge.shares)
    throttle   how much strangers may cost: tries at passwords, lines in a log
    accounts   names, roles, how long they work, and when guessing locks them; `passwords`: which, and how they are kept
    sessions   who is signed in, in memory: a restart ends every session
    entrance   banner, sign-in, the first account, one's password; `people`: the list of accounts
    pages      Jinja templates, one layout, one style sheet; nothing comes from elsewhere
    plot       small plots as SVG

Nothing here knows a catalog: accounts lie where the application says (`accounts.Accounts`).
"""

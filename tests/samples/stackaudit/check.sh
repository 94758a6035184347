# Signing up, signing in, a forwarded call, the caller, a refresh, another password, the keys, a new key, the end.
[ "$(cut -d' ' -f1 "$statuses" | tr '\n' ' ')" = '201 200 200 200 200 200 200 201 200 ' ]
grep -Eq '"message": ?"Account created successfully"' "$answers"
grep -Eq '"key": ?"sk_live_[A-Za-z0-9]+"' "$answers"

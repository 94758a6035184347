# $answers holds what both requests printed, $statuses a line for each: its status and its URL.
[ "$(cut -d' ' -f1 "$statuses" | tr '\n' ' ')" = '200 200 ' ]
grep -Eq '"access_token": ?"[^".]+\.[^".]+\.[^".]+"' "$answers"
grep -Eq '"token_type": ?"bearer"' "$answers"

[ "$(cut -d' ' -f1 "$statuses" | tr '\n' ' ')" = '200 ' ]

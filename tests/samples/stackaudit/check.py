assert response.status_code == 200, (response.status_code, response.text)
assert audits == [], audits

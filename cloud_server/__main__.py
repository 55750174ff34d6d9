from cloud_server.cli import main

main()

from cachenet.cloud_server.cli import main

main()
